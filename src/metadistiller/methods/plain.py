"""Plain training: cross entropy of the final output, no exits.

The "baseline" column of Tables 1 to 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..data import Batch
from ..losses import hard_loss
from ..nn import Backbone
from ._base import Losses, Method, Objective, Player, Setting


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plain training has none."""


NAMES: dict[str, dict[str, object]] = {"plain": {}}


class Plain(Method):
    """theta_s is the network and nothing else."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.student = setting.backbone
        self._label_smoothing = setting.label_smoothing

    def players(self) -> dict[str, Player]:
        return {"student": Player(self.student, "sgd")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        return (Objective(of="student", loss=self._loss),)

    def exits(self, images: Tensor) -> list[Tensor]:
        return [self.student(images)]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        return []

    def deployable(self) -> Backbone:
        return self.student

    def _loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        loss = hard_loss(self.student(images), labels, label_smoothing=self._label_smoothing)
        return Losses(loss, {"loss": loss.detach(), "final_hard": loss.detach()})


def build(options: Options, setting: Setting) -> Plain:
    return Plain(setting)
