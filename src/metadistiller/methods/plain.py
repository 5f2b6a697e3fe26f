"""Plain training: cross entropy of the final output, no exits.

The "baseline" column of Tables 1 to 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..data import Batch
from ..losses import hard_loss
from ._bare import BareNetwork
from ._base import Losses, Setting


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plain training has none."""


NAMES: dict[str, dict[str, object]] = {"plain": {}}


class Plain(BareNetwork):
    """Cross entropy and nothing else."""

    def loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        loss = hard_loss(
            self.student(images), labels, label_smoothing=self._label_smoothing, class_weights=self._class_weights
        )
        return Losses(loss, {"loss": loss.detach(), "final_hard": loss.detach()})


def build(options: Options, setting: Setting) -> Plain:
    return Plain(setting)
