"""The look-ahead step (eq. 7) and the meta-gradient of the held-out loss with respect to the generator (eq. 8).

The gradient is exact and needs no second-order graph. In eq. 7 only T_k depends on theta_g, because the generator
reads detached features, and L_S depends on T_k linearly through -(1 - alpha) tau^2 sum_k <T_k, log softmax(S_k /
tau)>; what is left of the divergence, <T_k, log T_k>, does not depend on theta_s. So with

    v   = gradient of the held-out loss at theta_s^+
    u_k = directional derivative along v of log softmax(S_k / tau) at theta_s, on X_train

    d L_test / d theta_g = zeta (1 - alpha) tau^2  d/d theta_g  mean_n sum_{k<K} <u_k[n], T_k(x_n; theta_g)>

Two first-order backward passes, one forward-mode pass through the trunk up to stage K-1 and the exits, one backward
pass through the generator. Nothing of the student is touched: parameters and buffers go in as arguments, buffers as
clones, and gradients come out of torch.autograd.grad.

The nesting matters. A reverse pass over a forward-mode pass through train-mode batch normalisation is silently wrong in
PyTorch (pytorch/pytorch issue 196699); here u_k is a constant before the generator's backward pass begins.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from .losses import hard_loss, self_boosting_loss
from .nn import LabelGenerator, MultiExit

Heldout = Literal["final", "all"]
T = TypeVar("T")


@dataclass(frozen=True)
class MetaLoss:
    """What one meta step has found.

    Attributes:
        surrogate: scalar whose gradient in theta_g is the meta-gradient; its value has no meaning.
        heldout_loss: L_test at theta_s^+, in nats, detached.
        target_logits: logits of T_1..T_{K-1} on X_train, detached.
    """

    surrogate: Tensor
    heldout_loss: Tensor
    target_logits: list[Tensor]


class _Bound(nn.Module):
    """A module seen through one of its functions: functional_call only ever calls `forward`."""

    def __init__(self, module: nn.Module, function: Callable[[Tensor], T]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(images)


def _call(module: nn.Module, function: Callable[[Tensor], T], params: Mapping[str, Tensor], images: Tensor) -> T:
    """`function(images)` of `module` with other parameters, and with clones of its buffers.

    Batch normalisation in training mode writes running statistics; clones keep these passes out of the network that
    ships.
    """
    state = {f"module.{name}": value for name, value in params.items()}
    state |= {f"module.{name}": value.clone() for name, value in module.named_buffers()}
    result: T = functional_call(_Bound(module, function), state, (images,))
    return result


def look_ahead(
    student: MultiExit,
    generator: LabelGenerator,
    images: Tensor,
    labels: Tensor,
    *,
    inner_lr: float,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """theta_s^+ of eq. 7 by one plain gradient step on the loss of eq. 3, and the target logits with their graph.

    Args:
        images, labels: X_train (N, 3, H, W) and Y_train (N,).
        inner_lr: zeta >= 0, the current learning rate of the student.
    Returns: fast parameters by name, detached leaves that require gradients; logits of T_1..T_{K-1}, (N, C) each, whose
        graph leads to theta_g.
    Departs: no momentum and no weight decay in the step; neither changes the mixed derivative of eq. 8 (reading G8).
    """
    params = dict(student.named_parameters())
    features, exit_logits = _call(student, student.forward, params, images)
    # Features are detached: eq. 7 writes T_k(theta_g), so the targets are no way to theta_s (reading G5).
    target_logits = generator([feature.detach() for feature in features])
    loss, _ = self_boosting_loss(
        exit_logits,
        labels,
        [logits.detach() for logits in target_logits],
        alpha=alpha,
        temperature=temperature,
        label_smoothing=label_smoothing,
    )
    gradients = torch.autograd.grad(loss, list(params.values()))
    with torch.no_grad():
        moved = torch._foreach_add(list(params.values()), gradients, alpha=-inner_lr)
    return {name: value.requires_grad_() for name, value in zip(params, moved, strict=True)}, target_logits


def heldout_gradient(
    student: MultiExit, fast_params: Mapping[str, Tensor], images: Tensor, labels: Tensor, *, heldout: Heldout
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_test at theta_s^+ and v, its gradient there (first half of eq. 8).

    Args:
        images, labels: X_test (N', 3, H, W) and Y_test (N',).
        heldout: "final" takes the final output's cross entropy, as written; "all" sums it over all exits.
    Returns: the loss, detached; v by name, without the parameters that the loss does not depend on.
    """
    if heldout == "final":
        fast = {name: value for name, value in fast_params.items() if name.startswith("backbone.")}
        bare = {name.removeprefix("backbone."): value for name, value in fast.items()}
        logits = _call(student.backbone, student.backbone.forward, bare, images)
        loss = hard_loss(logits, labels)
    else:
        fast = dict(fast_params)
        _, exit_logits = _call(student, student.forward, fast, images)
        loss = torch.stack([hard_loss(logits, labels) for logits in exit_logits]).sum()
    gradients = torch.autograd.grad(loss, list(fast.values()))
    return loss.detach(), dict(zip(fast, gradients, strict=True))


def directional_derivatives(
    student: MultiExit, direction: Mapping[str, Tensor], images: Tensor, *, temperature: float
) -> list[Tensor]:
    """u_1..u_{K-1}: derivative of log softmax(S_k / tau) along `direction` at theta_s; each (N, C), no graph.

    One forward-mode pass. The last stage does not run: no early exit depends on it.
    """
    with torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
        # The first dual tensor loads torch's own decompositions, which warn that torch.jit.script is going away.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        params = {
            name: forward_ad.make_dual(value.detach(), direction[name])  # type: ignore[no-untyped-call]
            if name in direction
            else value
            for name, value in student.named_parameters()
        }
        exit_logits = _call(student, student.early_exits, params, images)
        tangents = []
        for logits in exit_logits:
            log_p = F.log_softmax(logits / temperature, dim=1)
            tangents.append(forward_ad.unpack_dual(log_p).tangent)  # type: ignore[no-untyped-call]
    return tangents


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
    label_smoothing: float = 0.0,
) -> MetaLoss:
    """A scalar whose gradient with respect to theta_g is the meta-gradient of eq. 8, exactly.

    Runs in the parameters' own precision even under autocast: the meta-gradient is a difference of small numbers and
    amplifies rounding about a thousandfold.

    Args:
        student: theta_s, in training mode; left bitwise as it was, buffers and .grad included.
        generator: theta_g, in training mode.
        train_batch, heldout_batch: (images, labels) from disjoint sets, X_train and X_test of Algorithm 1.
        inner_lr: zeta >= 0.
        alpha: weight of the hard label, 0 to 1; at 1 the meta-gradient is exactly 0.
        temperature: tau > 0.
        heldout: see heldout_gradient.
        label_smoothing: of the look-ahead's hard terms, as in training; the held-out loss has none.
    """
    images, labels = train_batch
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        fast_params, target_logits = look_ahead(
            student,
            generator,
            images,
            labels,
            inner_lr=inner_lr,
            alpha=alpha,
            temperature=temperature,
            label_smoothing=label_smoothing,
        )
        loss, v = heldout_gradient(student, fast_params, *heldout_batch, heldout=heldout)
        u = directional_derivatives(student, v, images, temperature=temperature)
        agreement = torch.stack(
            [
                (u_k * F.softmax(logits / temperature, dim=1)).sum(1).mean()
                for u_k, logits in zip(u, target_logits, strict=True)
            ]
        ).sum()
    surrogate = inner_lr * (1 - alpha) * temperature**2 * agreement
    return MetaLoss(surrogate, loss, [logits.detach() for logits in target_logits])
