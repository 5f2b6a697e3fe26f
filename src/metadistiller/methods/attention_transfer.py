"""Attention transfer: each stage learns to look where the teacher's stage looks.

"AT" of Table 3. Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..config import require
from ..data import Batch
from ..losses import attention_loss, hard_loss
from ._base import Losses, Setting
from ._teacher import Taught


@dataclass(frozen=True, kw_only=True)
class Options:
    """Attention transfer.

    The paper does not state the constants behind its Table 3; these are the authors' own, which public comparisons
    share.

    Args:
        attention_weight: of the sum over stages of the attention losses, the label's being 1; above 0.
        power: p of the attention map, the mean over channels of |F|^p; >= 1.
    """

    attention_weight: float = 1000.0
    power: float = 2.0

    def __post_init__(self) -> None:
        require(
            self.attention_weight > 0,
            "method.attention_weight",
            self.attention_weight,
            "take a number above 0; method plain is without",
        )
        require(self.power >= 1, "method.power", self.power, "take 1 or more; 2 is usual")


NAMES: dict[str, dict[str, object]] = {"attention_transfer": {}}
PARTNER = "teacher"


class AttentionTransfer(Taught):
    """Cross entropy, and the attention losses of all stages that both networks have."""

    def __init__(self, options: Options, setting: Setting) -> None:
        super().__init__(setting, method="attention_transfer")
        self._options = options

    def loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        ours, logits = self.student.stages_and_logits(images)
        theirs = self._teacher.stages(images)
        hard = hard_loss(logits, labels, label_smoothing=self._label_smoothing, class_weights=self._class_weights)
        # From the deep end: the last stage is what the head reads, whatever the depth, while the first of a network
        # with more stages is shallower than anything that the other one has.
        pairs = list(zip(reversed(ours), reversed(theirs), strict=False))
        attention = torch.stack([attention_loss(s, t, power=self._options.power) for s, t in pairs]).sum()
        total = hard + self._options.attention_weight * attention
        return Losses(total, {"loss": total.detach(), "final_hard": hard.detach(), "attention": attention.detach()})


def build(options: Options, setting: Setting) -> AttentionTransfer:
    return AttentionTransfer(options, setting)
