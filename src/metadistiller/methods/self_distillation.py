"""Self-distillation: the final output's softmax is the soft target of every exit.

"SD" of Tables 1, 2 and 4. Source: Zhang et al., Be Your Own Teacher, ICCV 2019, as sec. 3.2 of the paper frames it:
eq. 4 with T_k = softmax(S_K / tau), and no feature loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ._base import Setting
from ._options import check_inner_width, check_weights
from ._self_boosting import SelfBoosting, build_student


@dataclass(frozen=True, kw_only=True)
class Options:
    """Self-distillation.

    Args:
        alpha: weight of the hard label against the soft target, 0 to 1. Paper 4.1: 0.5.
        temperature: tau, above 0. Paper 4.1: 1.
        inner_width: channels inside an exit, >= 1; null takes min(128, a quarter of the last stage's).
    """

    alpha: float = 0.5
    temperature: float = 1.0
    inner_width: int | None = None

    def __post_init__(self) -> None:
        check_weights(self.alpha, self.temperature)
        check_inner_width(self.inner_width)


NAMES: dict[str, dict[str, object]] = {"self_distillation": {}}


def _final_output(features: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
    return [logits[-1].detach()] * (len(logits) - 1)


def build(options: Options, setting: Setting) -> SelfBoosting:
    return SelfBoosting(
        build_student(setting, options.inner_width),
        _final_output,
        alpha=options.alpha,
        temperature=options.temperature,
        label_smoothing=setting.label_smoothing,
        class_weights=setting.class_weights,
    )
