"""What dsn, self_distillation and metadistiller share: a student with exits and the loss of eq. 3.

They differ in T_k alone: none, the final softmax, generated. Each hands a SelfBoosting the function that makes its
targets; nothing here is overridden.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Batch, seeded
from ..losses import self_boosting_loss, target_statistics
from ..meta import Kept
from ..nn import Backbone, MultiExit
from ..timing import timed
from ._base import Losses, Method, Objective, Player, Setting

# From features F_1..F_K and logits S_1..S_K to the logits of T_1..T_{K-1}, or to None for no soft term.
MakeTargets: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor] | None]


class Answered(NamedTuple):
    """What eq. 3 made of a batch.

    Attributes:
        losses: as of any method.
        targets: logits of T_1..T_{K-1}, (N, C) each, or None for no soft term.
        final: logits S_K, (N, C), detached.
    """

    losses: Losses
    targets: list[Tensor] | None
    final: Tensor


def build_student(setting: Setting, inner_width: int | None) -> MultiExit:
    """The backbone with its exits; their weights depend on the seed alone, so methods can be compared pair by pair."""
    with seeded(setting.seed, "exits"):
        return MultiExit(setting.backbone, setting.size, inner_width=inner_width)


class SelfBoosting(Method):
    """A student with exits, the loss of eq. 3, and whatever makes the targets.

    Args:
        student: theta_s.
        make_targets: where T_k comes from.
        alpha, temperature: of eq. 4.
        label_smoothing, class_weights: of the hard terms.
    """

    def __init__(
        self,
        student: MultiExit,
        make_targets: MakeTargets,
        *,
        alpha: float,
        temperature: float,
        label_smoothing: float,
        class_weights: Tensor | None,
    ) -> None:
        super().__init__()
        self.student = student
        self._make_targets = make_targets
        self._alpha = alpha
        self._temperature = temperature
        self._label_smoothing = label_smoothing
        self._class_weights = class_weights

    def players(self) -> dict[str, Player]:
        return {"student": Player(self.student, "sgd")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        return (Objective(of="student", loss=self.loss),)

    def loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """Eq. 3 on one batch."""
        return self.answer(batch).losses

    def answer(self, batch: Batch, *, kept: Kept | None = None) -> Answered:
        """Eq. 3 on one batch, and the logits that stood in it.

        T_k is a constant in the loss: no gradient to the final output, nor to the generator.

        Args:
            kept: where a meta step shares this one's look-ahead: keeps what convolutions of the student give, and the
                targets come with the graph to what made them.
        """
        images, labels = batch
        with kept or nullcontext():
            features, logits = self.student(images)
        with torch.set_grad_enabled(kept is not None), timed("generator"):
            targets = self._make_targets(features, logits)
        constants = None if targets is None else [target.detach() for target in targets]
        total, parts = self_boosting_loss(
            logits,
            labels,
            constants,
            alpha=self._alpha,
            temperature=self._temperature,
            label_smoothing=self._label_smoothing,
            class_weights=self._class_weights,
        )
        parts = {"loss": total.detach(), **parts}
        if constants is not None:
            parts |= target_statistics(constants, labels, temperature=self._temperature)
        return Answered(Losses(total, parts), targets, logits[-1].detach())

    def exits(self, images: Tensor) -> list[Tensor]:
        logits: list[Tensor] = self.student(images)[1]
        return logits

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        targets = self._make_targets(*self.student(images))
        return [F.softmax(t.float() / self._temperature, dim=1) for t in targets or ()]

    def multi_exit(self) -> MultiExit | None:
        return self.student

    def deployable(self) -> Backbone:
        return self.student.backbone
