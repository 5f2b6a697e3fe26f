"""The look-ahead step (eq. 7) and the meta-gradient of the held-out loss with respect to the generator (eq. 8).

The gradient is exact and needs no second-order graph. In eq. 7 only T_k depends on theta_g, because the generator
reads detached features, and L_S depends on T_k linearly through -(1 - alpha) tau^2 sum_k <T_k, log softmax(S_k /
tau)>; what is left of the divergence, <T_k, log T_k>, does not depend on theta_s. So with

    v   = gradient of the held-out loss at theta_s^+
    u_k = directional derivative along v of log softmax(S_k / tau) at theta_s, on X_train

    d L_test / d theta_g = zeta (1 - alpha) tau^2  d/d theta_g  mean_n sum_{k<K} <u_k[n], T_k(x_n; theta_g)>

Two first-order backward passes, one forward-mode pass through the trunk up to stage K-1 and the exits, one backward
pass through the generator. The first of the backward passes is that of eq. 3, which a training step has made already
where its batch serves as X_train. Nothing of the student is touched: parameters and buffers go in as arguments, buffers
as clones, and gradients come out of torch.autograd.grad.

look_ahead.py   eq. 7
derivative.py   v and u_k, the two halves of eq. 8
judged.py       what u_k says of a target
restraint.py    what keeps targets near where they began, if asked for
_forward_mode.py, _draws.py, _bound.py   a forward-mode pass, the same draws again, a call with other parameters
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import share_of
from ..errors import ConfigError
from ..nn import LabelGenerator, MultiExit, counting
from ..ranks import ALONE, Ranks
from ..timing import timed
from ._forward_mode import Kept
from .derivative import Derivative, Heldout, directional_derivatives, heldout_gradient, supported_derivative
from .judged import Judged, judge
from .look_ahead import LookAhead, look_ahead, shared_look_ahead
from .restraint import restraint

__all__ = [
    "Derivative",
    "Heldout",
    "Judged",
    "Kept",
    "LookAhead",
    "MetaLoss",
    "directional_derivatives",
    "heldout_gradient",
    "judge",
    "look_ahead",
    "meta_loss",
    "meta_loss_from",
    "restraint",
    "shared_look_ahead",
    "supported_derivative",
]


@dataclass(frozen=True)
class MetaLoss:
    """What one meta step has found.

    Attributes:
        surrogate: scalar whose gradient in theta_g is the meta-gradient, with that of the restraint where one is asked
            for; its value has no meaning.
        heldout_loss: L_test at theta_s^+, in nats, detached.
        target_logits: logits of T_1..T_{K-1} on X_train, detached.
        of_targets: what the held-out loss says of each T_k.
        of_labels: the same of the labels in their place.
        share: of X_train that the surrogate is the mean over, where several ranks have it between them: the
            meta-gradient is the sum over ranks of the surrogates' gradients times their shares.
    """

    surrogate: Tensor
    heldout_loss: Tensor
    target_logits: list[Tensor]
    of_targets: list[Judged]
    of_labels: list[Judged]
    share: float = 1.0


def meta_loss(
    student: MultiExit,
    generator: LabelGenerator,
    train_batch: tuple[Tensor, Tensor],
    heldout_batch: tuple[Tensor, Tensor],
    *,
    inner_lr: float,
    alpha: float,
    temperature: float,
    heldout: Heldout = "final",
    derivative: Derivative = "forward_mode",
    kl_weight: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> MetaLoss:
    """A scalar whose gradient with respect to theta_g is the meta-gradient of eq. 8, exactly.

    Exact means: to the rounding of the precision that it runs in, which is the parameters' own, or bfloat16 under
    autocast. benchmarks/meta_quality.py has what either costs in accuracy.

    Args:
        student: theta_s, in training mode; left bitwise as it was, buffers and .grad included.
        generator: theta_g, in training mode.
        train_batch, heldout_batch: (images, labels) from disjoint sets, X_train and X_test of Algorithm 1.
        inner_lr: zeta >= 0.
        alpha: weight of the hard label, 0 to 1; at 1 the meta-gradient is exactly 0.
        temperature: tau > 0.
        heldout: see heldout_gradient.
        derivative: see directional_derivatives; the surrogate is exact with forward_mode and double_backward.
        kl_weight: lambda >= 0 of the restraint that is added to eq. 8, in units of what it restrains (restraint.py);
            0 for eq. 8 alone.
        label_smoothing, class_weights: of the look-ahead's hard terms, as in training; the held-out loss has neither.
        ranks: which have the batches between them. They exchange the look-ahead's gradient and v, and whoever steps
            the generator sums its gradient: three sums, and nothing else, make it the meta-gradient of the whole
            batches; a restraint adds one of K-1 numbers. (A look-ahead of each rank's own is another function: its
            gradient is a fifth off.)
    """
    with torch.enable_grad(), timed("look-ahead"), counting(share_of(train_batch)):
        ahead = look_ahead(
            student,
            generator,
            train_batch,
            inner_lr=inner_lr,
            alpha=alpha,
            temperature=temperature,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            ranks=ranks,
        )
    return meta_loss_from(
        ahead,
        student,
        heldout_batch,
        inner_lr=inner_lr,
        alpha=alpha,
        temperature=temperature,
        heldout=heldout,
        derivative=derivative,
        kl_weight=kl_weight,
        ranks=ranks,
    )


def meta_loss_from(
    ahead: LookAhead,
    student: MultiExit,
    heldout_batch: tuple[Tensor, Tensor],
    *,
    inner_lr: float,
    alpha: float,
    temperature: float,
    heldout: Heldout = "final",
    derivative: Derivative = "forward_mode",
    kl_weight: float = 0.0,
    ranks: Ranks = ALONE,
) -> MetaLoss:
    """The same from a look-ahead that is there already, such as shared_look_ahead's.

    Args: as in meta_loss, which inner_lr, alpha and temperature must agree with.
    """
    with torch.enable_grad():
        with timed("held-out"):
            loss, v = heldout_gradient(student, ahead.fast_params, heldout_batch, heldout=heldout, ranks=ranks)
        with timed("forward-mode"), counting(ahead.share):
            u = directional_derivatives(
                student, v, ahead.images, temperature=temperature, how=derivative, kept=ahead.kept
            )
        with timed("generator"):
            targets = [
                F.softmax(logits.to(u_k.dtype) / temperature, dim=1)
                for u_k, logits in zip(u, ahead.target_logits, strict=True)
            ]
            agreement = _agreement(u, targets)
            of_targets = [judge(u_k, target) for u_k, target in zip(u, targets, strict=True)]
            of_labels = [judge(u_k, _as_probabilities(ahead.labels, u_k)) for u_k in u]
            if kl_weight:
                if ahead.reference is None:
                    raise ConfigError(
                        f"kl_weight is {kl_weight}, and the look-ahead has no reference; give shared_look_ahead "
                        "reference=generator.reference(final)"
                    )
                away = restraint(
                    u, ahead.target_logits, ahead.reference, temperature=temperature, share=ahead.share, ranks=ranks
                )
                agreement = agreement + kl_weight * away
    surrogate = inner_lr * (1 - alpha) * temperature**2 * agreement
    detached = [logits.detach() for logits in ahead.target_logits]
    return MetaLoss(surrogate, loss, detached, of_targets, of_labels, ahead.share)


def _agreement(u: list[Tensor], targets: list[Tensor]) -> Tensor:
    """mean_n sum_k <u_k[n], T_k[n]>, whose gradient is in T_k alone."""
    return torch.stack([(u_k * target).sum(1).mean() for u_k, target in zip(u, targets, strict=True)]).sum()


def _as_probabilities(labels: Tensor, like: Tensor) -> Tensor:
    """Labels (N,), or probabilities (N, C) already, in the shape and dtype of (N, C)."""
    return (labels if labels.ndim == 2 else F.one_hot(labels, like.shape[1])).to(like)
