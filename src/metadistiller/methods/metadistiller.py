"""MetaDistiller: soft targets fused top-down by a generator that is trained by a meta-gradient.

"MD" of every table. Source: Liu, Rao, Lu, Zhou, Hsieh, MetaDistiller: Network Self-Boosting via Meta-Learned Top-Down
Distillation, ECCV 2020; Algorithm 1.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..config import require
from ..data import Batch, Disjoint, Halves, seeded
from ..losses import hard_loss
from ..meta import Derivative, Kept, MetaLoss, meta_loss, meta_loss_from, shared_look_ahead, supported_derivative
from ..nn import Backbone, LabelGenerator, MultiExit, stage_shapes
from ._apart import answer_apart
from ._base import Losses, Method, Objective, Player, Setting
from ._options import check_inner_width, check_weights, refuse_unused
from ._self_boosting import Answered, SelfBoosting, build_student

# Options that change nothing, by choice of `targets`. What recipes set for a data set or a network (generator_width, M,
# meta_every_steps, heldout, generator_kl_weight) is not among them: the ablations must run from there.
_META = ("lookahead", "heldout_batch_size", "derivative", "meta_precision", "generator_warmup_epochs")
_UNUSED: Mapping[str, tuple[str, ...]] = {
    "meta": (),
    "labels": _META,
    "frozen": (*_META, "generator_lr"),
    "uniform": (*_META, "generator_lr", "generator_norm"),
}


# Of each option that is one of a few words, the words.
_WORDS = {
    "lookahead": ("shared", "own"),
    "heldout": ("final", "all"),
    "derivative": ("auto", "forward_mode", "double_backward", "finite_differences"),
    "meta_precision": ("run", "float32"),
    "generator_norm": ("none", "batch"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """MetaDistiller.

    Args:
        alpha: weight of the hard label against the soft target, eq. 4, 0 to 1. Paper 4.1: 0.5.
        temperature: tau of eq. 4, above 0. Paper 4.1: 1.
        targets: where T_k comes from: meta, a generator taught by the meta-gradient, is the paper's. Three ablations:
            labels (a generator taught by its own cross entropy with the labels, at the same steps), frozen (a generator
            with its initial weights) and uniform (no generator, every class as likely as the next).
        meta_every_epochs: M of Algorithm 1: the generator learns in epochs 0, M, 2 M ...; >= 1. Paper 3.5: 5.
            Nothing learns in them with targets frozen or uniform.
        meta_every_steps: in such an epoch, steps per update of the generator; >= 1. Algorithm 1: 1.
        generator_lr: Adam's learning rate for the generator before the schedule, above 0. Departs from the paper's 0.1,
            which makes every target one-hot within a few steps (docs/notes/generator-lr.md has the measurements).
        generator_width: mirror (each generated map has the shape of the stage's own), or channels of every map, >= 1.
        generator_norm: of each generated map: none, as eq. 5 is written, or batch (batch normalisation).
        generator_warmup_epochs: so many first epochs the generator is taught by labels, at every step of every epoch,
            and from then on by the meta-gradient, with an Adam that begins there; >= 0 and less than the run. Not in
            the paper.
        generator_kl_weight: lambda >= 0 of a divergence that is added to what the generator minimises, KL(T_k || P),
            where P is uniform or, with the residual method, the final output: what a new generator's targets are, or
            nearly; in units of the noise of the meta-gradient (metadistiller.meta.restraint). 0, the paper's, has
            nothing hold targets back that follow noise until they are sure of one class. Of the meta-gradient alone,
            whatever else teaches. Not in the paper.
        residual: whether the generator's logits are added to those of the final output: residual_metadistiller.
        lookahead: where the step of eq. 7 comes from. shared: it is the gradient that the student's own step has just
            made, so X_train is the student's batch, and X_test is drawn from all images that are not in it; own: one of
            its own, on a batch of one half of the data while X_test is of the other, as Algorithm 1 has it. Departs:
            shared is the default because it gives the same for less (docs/notes/shared-look-ahead.md).
        heldout: which outputs the held-out loss of eq. 8 sums over: final, as written, or all. Recipes set it, so it is
            let pass where no meta-gradient is taken and it changes nothing.
        heldout_batch_size: images of X_test in a step, >= 2; null takes the run's batch size.
        derivative: how the exits' derivative along the held-out gradient is taken. auto: the first of the others that
            the network's operations allow, said where it is not the first. forward_mode is exact; double_backward too,
            in more time and memory; finite_differences is near.
        meta_precision: of the meta step. run: as the student's step, so bfloat16 where that is, but
            float32 where that is float16; float32.
        inner_width: channels inside an exit, >= 1; null takes min(128, a quarter of the last stage's).
    """

    alpha: float = 0.5
    temperature: float = 1.0
    targets: Literal["meta", "labels", "frozen", "uniform"] = "meta"
    meta_every_epochs: int = 5
    meta_every_steps: int = 1
    generator_lr: float = 0.001
    generator_width: int | Literal["mirror"] = "mirror"
    generator_norm: Literal["none", "batch"] = "none"
    generator_warmup_epochs: int = 0
    generator_kl_weight: float = 0.0
    residual: bool = False
    lookahead: Literal["shared", "own"] = "shared"
    heldout: Literal["final", "all"] = "final"
    heldout_batch_size: int | None = None
    derivative: Literal["auto", "forward_mode", "double_backward", "finite_differences"] = "auto"
    meta_precision: Literal["run", "float32"] = "run"
    inner_width: int | None = None

    def __post_init__(self) -> None:
        check_weights(self.alpha, self.temperature)
        check_inner_width(self.inner_width)
        require(self.meta_every_epochs >= 1, "method.meta_every_epochs", self.meta_every_epochs, "take 1 or more")
        require(self.meta_every_steps >= 1, "method.meta_every_steps", self.meta_every_steps, "take 1 or more")
        require(self.generator_lr > 0, "method.generator_lr", self.generator_lr, "take a number above 0")
        weight = self.generator_kl_weight
        require(0 <= weight < math.inf, "method.generator_kl_weight", weight, "take 0 or more")
        require(
            self.residual or weight == 0 or self.generator_warmup_epochs == 0,
            "method.generator_kl_weight",
            weight,
            "it would pull what labels have taught back to uniform; take 0, no generator_warmup_epochs, or "
            "residual_metadistiller",
        )
        width = self.generator_width
        require(
            width == "mirror" or (isinstance(width, int) and width >= 1),
            "method.generator_width",
            width,
            "take mirror, or channels from 1 on",
        )
        require(
            self.generator_warmup_epochs >= 0,
            "method.generator_warmup_epochs",
            self.generator_warmup_epochs,
            "take 0 or more",
        )
        for name, known in _WORDS.items():
            value = getattr(self, name)
            require(value in known, f"method.{name}", value, f"take {' or '.join(known)}")
        require(
            self.heldout_batch_size is None or self.heldout_batch_size >= 2,
            "method.heldout_batch_size",
            self.heldout_batch_size,
            "batch normalisation needs 2 or more; null takes the run's batch size",
        )
        require(self.targets in _UNUSED, "method.targets", self.targets, f"take one of {', '.join(_UNUSED)}")
        refuse_unused(self, *_UNUSED[self.targets], because=f"targets {self.targets}")
        require(
            self.targets != "uniform" or not self.residual,
            "method.targets",
            self.targets,
            "a residual generator has no use for it; take meta, labels or frozen, or the method metadistiller",
        )


NAMES: dict[str, dict[str, object]] = {"metadistiller": {"residual": False}}


class MetaDistiller(Method):
    """T_k: the generator's, from the detached features of the student; with targets=uniform there is no generator.

    Departs: with lookahead=shared X_train is the student's batch, and X_test comes from all that is not in it; with own
        halves are drawn once per epoch instead of at every update (reading G3). Epochs count from 0, so the generator
        learns in the first (reading G2); the prose's "by SGD" for theta_g is read as Adam, as in sec. 4.1 (reading
        G10).
    """

    def __init__(self, options: Options, setting: Setting) -> None:
        super().__init__()
        require(
            options.generator_warmup_epochs == 0 or options.generator_warmup_epochs < setting.epochs,
            "method.generator_warmup_epochs",
            options.generator_warmup_epochs,
            f"the run has {setting.epochs}, which leaves none for the meta-gradient; take fewer, or targets labels",
        )
        self._options = options
        self._label_smoothing = setting.label_smoothing
        self._class_weights = setting.class_weights
        self._ranks = setting.ranks
        self.generator = None if options.targets == "uniform" else _build_generator(options, setting)
        self.boosting = SelfBoosting(
            build_student(setting, options.inner_width),
            self._targets,
            alpha=options.alpha,
            temperature=options.temperature,
            label_smoothing=setting.label_smoothing,
            class_weights=setting.class_weights,
        )
        self._between = _Between()
        self._supported: Derivative | None = None

    def players(self) -> dict[str, Player]:
        players = self.boosting.players()
        if self.generator is not None and self._options.targets != "frozen":
            players["generator"] = Player(self.generator, "adam", lr=self._options.generator_lr)
            if self._options.generator_warmup_epochs:
                # An optimizer of its own: gradients of labels are hundreds of times the meta-gradient's, and Adam would
                # divide by their size for thousands of steps to come.
                players["generator_warmup"] = Player(self.generator, "adam", lr=self._options.generator_lr)
        return players

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        student = self.boosting.objectives(epoch)
        if epoch < self._options.generator_warmup_epochs:
            return (*student, Objective(of="generator_warmup", loss=self._label_loss))
        if epoch % self._options.meta_every_epochs:
            return student
        steps = self._options.meta_every_steps
        match self._options.targets:
            case "meta" if self._options.lookahead == "shared":
                # The student waits, so that the generator's turn finds it where its gradient was taken.
                first = Objective(of="student", loss=self._sharing_loss, waits=True)
                heldout = Disjoint(batch_size=self._options.heldout_batch_size)
                return first, Objective(of="generator", loss=self._shared_loss, stream=heldout, every_steps=steps)
            case "meta":
                halves = Halves(heldout_batch_size=self._options.heldout_batch_size)
                return (*student, Objective(of="generator", loss=self._own_loss, stream=halves, every_steps=steps))
            case "labels":
                return (*student, Objective(of="generator", loss=self._label_loss, every_steps=steps))
            case "frozen" | "uniform":
                return student

    def exits(self, images: Tensor) -> list[Tensor]:
        return self.boosting.exits(images)

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        return self.boosting.soft_targets(images)

    def multi_exit(self) -> MultiExit | None:
        return self.boosting.multi_exit()

    def deployable(self) -> Backbone:
        return self.boosting.deployable()

    def _targets(self, features: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        if self.generator is None:
            return [torch.zeros_like(exit_logits) for exit_logits in logits[:-1]]
        return self._generate(features, logits)

    def _generate(self, features: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        assert self.generator is not None
        targets: list[Tensor] = self.generator([feature.detach() for feature in features], logits[-1].detach())
        return targets

    def _own_loss(self, batch: tuple[Batch, Batch], rates: Mapping[str, float]) -> Losses:
        """Eqs. 7 and 8 on batches of their own."""
        assert self.generator is not None
        with self._meta_autocast(batch[0][0]):
            found = meta_loss(
                self.boosting.student,
                self.generator,
                *batch,
                # zeta follows the student's learning rate through the schedule (sec. 4.1).
                inner_lr=rates["student"],
                alpha=self._options.alpha,
                temperature=self._options.temperature,
                heldout=self._options.heldout,
                derivative=self._derivative(batch[0][0]),
                kl_weight=self._options.generator_kl_weight,
                label_smoothing=self._label_smoothing,
                class_weights=self._class_weights,
                ranks=self._ranks,
            )
        return _losses_of(found)

    def _sharing_loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """Eq. 3 as ever; the targets' graph is kept for the generator's turn."""
        kept = Kept()
        answered = self.boosting.answer(batch, kept=kept)
        self._between.left = batch, answered, kept
        return answered.losses

    def _shared_loss(self, heldout_batch: Batch, rates: Mapping[str, float]) -> Losses:
        """Eq. 8 after the look-ahead that the student's gradient is; the student has not moved yet."""
        assert self._between.left is not None, "the student's loss comes first in each step"
        (batch, answered, kept), self._between.left = self._between.left, None
        assert answered.targets is not None
        assert self.generator is not None
        student = self.boosting.student
        with self._meta_autocast(batch[0]):
            # In another precision the convolutions give something else.
            same = kept if self._options.meta_precision == "run" else None
            ahead = shared_look_ahead(
                student,
                batch,
                answered.targets,
                inner_lr=rates["student"],
                reference=self.generator.reference(answered.final),
                kept=same,
            )
            found = meta_loss_from(
                ahead,
                student,
                heldout_batch,
                inner_lr=rates["student"],
                alpha=self._options.alpha,
                temperature=self._options.temperature,
                heldout=self._options.heldout,
                derivative=self._derivative(ahead.images),
                kl_weight=self._options.generator_kl_weight,
                ranks=self._ranks,
            )
        return _losses_of(found)

    def _derivative(self, images: Tensor) -> Derivative:
        if self._options.derivative != "auto":
            return self._options.derivative
        if self._supported is None:
            self._supported = supported_derivative(self.boosting.student, images)
        return self._supported

    def _meta_autocast(self, images: Tensor) -> AbstractContextManager[object]:
        """The student's own autocast, or none."""
        kind = images.device.type
        # Gradients inside the meta step are not scaled, and float16 would lose them.
        half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        if self._options.meta_precision == "run" and not half:
            return nullcontext()
        return torch.autocast(images.device.type, enabled=False)

    def _label_loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """The ablation of eq. 8: sum over k of CE(y, T_k) on the student's own batch; only theta_g gets a gradient."""
        images, labels = batch
        features, exits = answer_apart(self.boosting.student, images)
        targets = [logits / self._options.temperature for logits in self._generate(features, exits)]
        loss = torch.stack(
            [
                hard_loss(t, labels, label_smoothing=self._label_smoothing, class_weights=self._class_weights)
                for t in targets
            ]
        ).sum()
        return Losses(loss, {"generator_loss": loss.detach()})


class _Between:
    """With lookahead=shared, what the student's loss leaves behind for the generator's in the same step.

    A copy of the method has nothing of it: a graph cannot be copied.

    Attributes:
        left: the batch, what eq. 3 made of it, the targets with their graph, and what the convolutions gave.
    """

    def __init__(self) -> None:
        self.left: tuple[Batch, Answered, Kept] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "_Between":
        return _Between()


def _losses_of(found: MetaLoss) -> Losses:
    parts = {"heldout_loss": found.heldout_loss}
    for name, judged in (("target", found.of_targets), ("label", found.of_labels)):
        for k, each in enumerate(judged, start=1):
            parts |= {f"{name}_{k}_alignment": each.alignment, f"{name}_{k}_gain": each.gain}
    return Losses(found.surrogate, parts, found.share)


def _build_generator(options: Options, setting: Setting) -> LabelGenerator:
    """G, with weights that depend on the seed alone."""
    shapes = stage_shapes(setting.backbone, setting.size)
    with seeded(setting.seed, "generator"):
        generator = LabelGenerator(
            shapes,
            setting.backbone.num_classes,
            width=options.generator_width,
            exit_design=setting.backbone.exit_design,
            inner_width=options.inner_width,
            norm=options.generator_norm,
            residual=options.residual,
        )
    # A frozen generator keeps its weights. The running averages of its heads follow the student: targets are shown with
    # them, and training has no use for them.
    return generator.requires_grad_(options.targets != "frozen")


def build(options: Options, setting: Setting) -> MetaDistiller:
    return MetaDistiller(options, setting)
