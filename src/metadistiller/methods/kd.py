"""Knowledge distillation: the student learns from the label and from a trained teacher's softened output.

"KD" of Table 3. Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; eq. 1 of the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..data import Batch
from ..losses import distillation_loss
from ._base import Losses, Setting
from ._options import check_weights
from ._teacher import Taught


@dataclass(frozen=True, kw_only=True)
class Options:
    """Knowledge distillation.

    The paper does not state the constants behind its Table 3; these are what public comparisons of distillation use
    for CIFAR-100.

    Args:
        alpha: weight of the hard label against the teacher, eq. 1, 0 to 1.
        temperature: tau of eq. 1, above 0.
    """

    alpha: float = 0.1
    temperature: float = 4.0

    def __post_init__(self) -> None:
        check_weights(self.alpha, self.temperature)


NAMES: dict[str, dict[str, object]] = {"kd": {}}
PARTNER = "teacher"


class KnowledgeDistillation(Taught):
    """Eq. 1 on the final output."""

    def __init__(self, options: Options, setting: Setting) -> None:
        super().__init__(setting, method="kd")
        self._options = options

    def loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        total, parts = distillation_loss(
            self.student(images),
            labels,
            self._teacher.logits(images),
            alpha=self._options.alpha,
            temperature=self._options.temperature,
            label_smoothing=self._label_smoothing,
            class_weights=self._class_weights,
        )
        return Losses(total, {"loss": total.detach(), **parts})


def build(options: Options, setting: Setting) -> KnowledgeDistillation:
    return KnowledgeDistillation(options, setting)
