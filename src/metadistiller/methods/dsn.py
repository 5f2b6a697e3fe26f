"""Deep supervision: every exit learns from the hard label alone.

"Hard Only" of Table 4. Source: Lee et al., Deeply-Supervised Nets, AISTATS 2015; sec. 4.5 of the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..config import require
from ._base import Setting
from ._options import check_inner_width
from ._self_boosting import SelfBoosting, build_student


@dataclass(frozen=True, kw_only=True)
class Options:
    """Deep supervision.

    Args:
        exit_weight: of each early exit's cross entropy, the final output's being 1; above 0. The paper is silent; 1 is
            eq. 4 at alpha = 1, and 0.5 keeps the hard half of eq. 4 and drops the soft one.
        inner_width: channels inside an exit, >= 1; null takes min(128, a quarter of the last stage's).
    """

    exit_weight: float = 1.0
    inner_width: int | None = None

    def __post_init__(self) -> None:
        require(self.exit_weight > 0, "method.exit_weight", self.exit_weight, "take a number above 0")
        check_inner_width(self.inner_width)


NAMES: dict[str, dict[str, object]] = {"dsn": {}}


def _no_targets(features: Sequence[Tensor], logits: Sequence[Tensor]) -> None:
    return None


def build(options: Options, setting: Setting) -> SelfBoosting:
    return SelfBoosting(
        build_student(setting, options.inner_width),
        _no_targets,
        # Without a soft term alpha is just the weight of the exits' cross entropy.
        alpha=options.exit_weight,
        temperature=1.0,
        label_smoothing=setting.label_smoothing,
        class_weights=setting.class_weights,
    )
