"""theta_s^+, the student one plain gradient step further (eq. 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..data import Batch, share_of
from ..losses import self_boosting_loss
from ..nn import LabelGenerator, MultiExit
from ..ranks import ALONE, Ranks
from ._bound import call
from ._forward_mode import Kept


@dataclass(frozen=True)
class LookAhead:
    """The look-ahead step, and what eq. 8 needs of it.

    Attributes:
        images: X_train, (N, 3, H, W).
        labels: Y_train, (N,) int64, or probabilities (N, C).
        target_logits: of T_1..T_{K-1} on X_train, (N, C) each; their graph leads to theta_g.
        fast_params: theta_s^+ by name, detached.
        reference: logits, (N, C), that the targets may be pulled to; None where nothing pulls.
        kept: what convolutions gave, and layers drew, at theta_s on X_train.
        share: of X_train that `images` are, where several ranks have it between them.
    """

    images: Tensor
    labels: Tensor
    target_logits: list[Tensor]
    fast_params: dict[str, Tensor]
    reference: Tensor | None = None
    kept: Kept = field(default_factory=Kept)
    share: float = 1.0


def look_ahead(
    student: MultiExit,
    generator: LabelGenerator,
    batch: Batch,
    *,
    inner_lr: float,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> LookAhead:
    """Eq. 7 on a batch of its own, as Algorithm 1 has it: one plain gradient step on the loss of eq. 3.

    Args:
        batch: X_train (N, 3, H, W) and Y_train (N,).
        inner_lr: zeta >= 0, the current learning rate of the student.
        ranks: which have the batch between them; the step is that of the whole batch, the same on all.
    Departs: no momentum and no weight decay in the step; neither changes the mixed derivative of eq. 8 (reading G8).
    """
    images, labels = batch
    params = dict(student.named_parameters())
    kept = Kept()
    with kept:
        features, exit_logits = call(student, student.forward, params, images)
    # Features are detached: eq. 7 writes T_k(theta_g), so the targets are no way to theta_s (reading G5).
    final = exit_logits[-1].detach()
    target_logits = generator([feature.detach() for feature in features], final)
    loss, _ = self_boosting_loss(
        exit_logits,
        labels,
        [logits.detach() for logits in target_logits],
        alpha=alpha,
        temperature=temperature,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
    )
    moving = {name: param for name, param in params.items() if param.requires_grad}
    # A network may hold parameters that its output does not depend on, such as those of an auxiliary head.
    found = torch.autograd.grad(loss * share_of(batch), list(moving.values()), allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(moving, found, strict=True) if gradient is not None}
    ranks.sum_(list(gradients.values()))
    fast_params = _moved(params, gradients, inner_lr)
    return LookAhead(images, labels, target_logits, fast_params, generator.reference(final), kept, share_of(batch))


def shared_look_ahead(
    student: MultiExit,
    batch: Batch,
    target_logits: Sequence[Tensor],
    *,
    inner_lr: float,
    reference: Tensor | None = None,
    kept: Kept | None = None,
) -> LookAhead:
    """Eq. 7 with the gradient that the student's own training step has just made: X_train is its batch.

    The same number as look_ahead of that batch, for nothing: the gradient is that of eq. 3, at the same theta_s and
    with the same T_k.

    Args:
        student: theta_s, not yet moved, with the gradient of eq. 3 in the .grad of its parameters; that of the whole
            batch where several ranks have it between them.
        batch: that it is the gradient of, images and labels.
        target_logits: the T_k that stood in it, with their graph to theta_g.
        inner_lr: zeta >= 0.
        reference: see LookAhead.
        kept: entered while the student answered that batch; saves a third of the forward-mode pass.
    Departs: Algorithm 1 draws a batch of its own from D_train, after the student's update.
    """
    params = dict(student.named_parameters())
    gradients = {name: param.grad for name, param in params.items() if param.grad is not None}
    assert gradients, "the student's gradient must be there"
    fast_params = _moved(params, gradients, inner_lr)
    return LookAhead(*batch, list(target_logits), fast_params, reference, kept or Kept(), share_of(batch))


def _moved(params: Mapping[str, Tensor], gradients: Mapping[str, Tensor], inner_lr: float) -> dict[str, Tensor]:
    """params - inner_lr * gradients, detached; what has no gradient stays where it is."""
    with torch.no_grad():
        moving = [params[name] for name in gradients]
        moved = torch._foreach_add(moving, list(gradients.values()), alpha=-inner_lr)
    return {name: param.detach() for name, param in params.items()} | dict(zip(gradients, moved, strict=True))
