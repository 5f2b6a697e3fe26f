"""FitNet: a middle stage of the student first learns to predict the teacher's, then the whole learns from its output.

"FitNet" of Table 3. Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import milestone_epoch, require
from ..data import Batch, seeded
from ..errors import ShapeError
from ..losses import distillation_loss, hard_loss, hint_loss
from ..nn import Backbone, MultiExit, StageShape, stage_shapes
from ..nn.backbones import initialise
from ._base import Losses, Method, Objective, Player, Setting
from ._options import check_weights, refuse_unused
from ._teacher import FrozenTeacher


@dataclass(frozen=True, kw_only=True)
class Options:
    """FitNet.

    The paper does not state the constants behind its Table 3; stage, weight, alpha and temperature are what public
    comparisons of distillation use for CIFAR-100.

    Args:
        hint_stage: the student's stage that is guided, 1 to K.
        teacher_stage: the teacher's stage that it is to predict; null takes the same number.
        hint_weight: of the squared error (mean over all elements), the label's cross entropy being 1; above 0.
        two_stage: true as in the original: first the hint alone, then the loss of kd. False: label and hint together
            from the first epoch to the last, as public comparisons have it.
        hint_epochs: how long the first stage lasts: below 1 a fraction of the run, from 1 on epochs; above 0.
        alpha: of the second stage, weight of the hard label against the teacher's output, 0 to 1.
        temperature: of the second stage, tau, above 0.
    """

    hint_stage: int = 2
    teacher_stage: int | None = None
    hint_weight: float = 100.0
    two_stage: bool = True
    hint_epochs: float = 0.1
    alpha: float = 0.1
    temperature: float = 4.0

    def __post_init__(self) -> None:
        check_weights(self.alpha, self.temperature)
        require(self.hint_weight > 0, "method.hint_weight", self.hint_weight, "take a number above 0")
        require(
            self.hint_epochs > 0,
            "method.hint_epochs",
            self.hint_epochs,
            "take a fraction of the run, or epochs from 1 on; method kd is without a first stage",
        )
        if not self.two_stage:
            refuse_unused(self, "hint_epochs", "alpha", "temperature", because="two_stage false")


NAMES: dict[str, dict[str, object]] = {"fitnet": {}}
PARTNER = "teacher"


class GuidedStudent(nn.Module):
    """theta_s and the regressor: one player, because SGD leaves alone whatever has no gradient.

    Args:
        backbone: the network that ships in the end; kept as it is.
        regressor: from the hint stage's map to the teacher's.
    """

    def __init__(self, backbone: Backbone, regressor: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.regressor = regressor


class FitNet(Method):
    """Hints, then knowledge distillation; or both label and hints at once.

    Departs: one optimizer and one schedule for both stages. So the momentum of the guided layers carries over from the
        last hint to the second stage, and the second stage begins where the schedule is, not at its start. In the
        second stage the soft term's weight is constant, as in kd; the original lowers it along the way.
    """

    def __init__(self, options: Options, setting: Setting) -> None:
        super().__init__()
        self._options = options
        self._label_smoothing = setting.label_smoothing
        self._class_weights = setting.class_weights
        self._teacher = FrozenTeacher(setting, method="fitnet")
        self._teacher_stage = options.hint_stage if options.teacher_stage is None else options.teacher_stage
        ours = _stage("method.hint_stage", options.hint_stage, setting.backbone, setting.size, whose="the student")
        theirs = _stage("method.teacher_stage", self._teacher_stage, self._teacher.network, setting.size,
                        whose="the teacher")  # fmt: skip
        self._hint_epochs = milestone_epoch(options.hint_epochs, setting.epochs) if options.two_stage else 0
        require(
            self._hint_epochs < setting.epochs,
            "method.hint_epochs",
            options.hint_epochs,
            f"of {setting.epochs} epochs that leaves none for the second stage; take fewer, or more --epochs, or "
            "--method.two_stage false",
        )
        with seeded(setting.seed, "regressor"):
            regressor = _regressor(ours, theirs)
        self.student = GuidedStudent(setting.backbone, regressor)

    def players(self) -> dict[str, Player]:
        return {"student": Player(self.student, "sgd")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        if not self._options.two_stage:
            return (Objective(of="student", loss=self._joint_loss),)
        return (Objective(of="student", loss=self._guide if epoch < self._hint_epochs else self._distil),)

    def exits(self, images: Tensor) -> list[Tensor]:
        return [self.student.backbone(images)]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        return []

    def multi_exit(self) -> MultiExit | None:
        return None

    def deployable(self) -> Backbone:
        return self.student.backbone

    def _guide(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """The first stage. What lies behind the hint stage does not run, so it has neither gradients nor statistics."""
        images, _ = batch
        hint = self._hint(self.student.backbone.stages(images, upto=self._options.hint_stage), images)
        total = self._options.hint_weight * hint
        return Losses(total, {"loss": total.detach(), "hint": hint.detach()})

    def _distil(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """The second stage: eq. 1."""
        images, labels = batch
        total, parts = distillation_loss(
            self.student.backbone(images),
            labels,
            self._teacher.logits(images),
            alpha=self._options.alpha,
            temperature=self._options.temperature,
            label_smoothing=self._label_smoothing,
            class_weights=self._class_weights,
        )
        return Losses(total, {"loss": total.detach(), **parts})

    def _joint_loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """Label and hint at once."""
        images, labels = batch
        features, logits = self.student.backbone.stages_and_logits(images)
        hint = self._hint(features, images)
        hard = hard_loss(logits, labels, label_smoothing=self._label_smoothing, class_weights=self._class_weights)
        total = hard + self._options.hint_weight * hint
        return Losses(total, {"loss": total.detach(), "final_hard": hard.detach(), "hint": hint.detach()})

    def _hint(self, features: list[Tensor], images: Tensor) -> Tensor:
        guided = self.student.regressor(features[self._options.hint_stage - 1])
        return hint_loss(guided, self._teacher.stages(images, upto=self._teacher_stage)[-1])


def _stage(option: str, stage: int, network: Backbone, size: tuple[int, int], *, whose: str) -> StageShape:
    """The shape of a network's stage, counted from 1. Raises: ConfigError where there is none of that number."""
    shapes = stage_shapes(network, size)
    require(1 <= stage <= len(shapes), option, stage, f"{whose} has stages 1 to {len(shapes)}; take one of them")
    return shapes[stage - 1]


def _regressor(ours: StageShape, theirs: StageShape) -> nn.Sequential:
    """From the student's map to the teacher's: one convolution by the ratio of their sides, batch norm, ReLU.

    The transposed convolution keeps torch's own initial weights, all else is as everywhere.

    Raises: ShapeError where the student's map is smaller, and not by half.
    """
    (height, width), (wanted_height, wanted_width) = ours[1:], theirs[1:]
    channels, out = ours.channels, theirs.channels
    conv: nn.Module
    if (height, width) == (wanted_height, wanted_width):
        conv = nn.Conv2d(channels, out, 1)
    elif (height, width) == (2 * wanted_height, 2 * wanted_width):
        conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (wanted_height, wanted_width):
        conv = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1)
    elif height >= wanted_height and width >= wanted_width:
        conv = nn.Conv2d(channels, out, (1 + height - wanted_height, 1 + width - wanted_width))
    else:
        raise ShapeError(
            f"the student's stage is {height}x{width}, the teacher's {wanted_height}x{wanted_width}: no hint from a "
            "map that is smaller than the teacher's, unless by half; take a shallower --method.hint_stage or a "
            "deeper --method.teacher_stage"
        )
    regressor = nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())
    initialise(regressor)
    return regressor


def build(options: Options, setting: Setting) -> FitNet:
    return FitNet(options, setting)
