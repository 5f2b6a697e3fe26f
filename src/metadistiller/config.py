"""What a run is: a frozen Config, checked where it is defined.

Only assemble, settings, the command line, the recipes and the engine see a Config; networks, losses, methods and data
take plain arguments.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .errors import ConfigError


def require(condition: bool, what: str, value: object, fix: str) -> None:
    """Raise ConfigError('what is value; fix') unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{what} is {value!r}; {fix}")


def milestone_epoch(milestone: float, epochs: int) -> int:
    """The epoch from which a milestone holds: below 1 a fraction of the run (0.4 of 200 is 80), from 1 on an epoch."""
    require(
        milestone < 1 or milestone == int(milestone),
        "a place in the run",
        milestone,
        "take a fraction below 1, or whole epochs",
    )
    # Upwards, so that even one epoch begins at the full rate; the rounding keeps 0.7 * 10 = 7.000000000000001 at 7.
    return math.ceil(round(milestone * epochs, 6)) if milestone < 1 else round(milestone)


# Where a run happens and in which number formats, found out when it begins. It goes on with its own.
MACHINE = ("device", "precision", "memory_format", "threads")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A member of a family by name, with the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


@dataclass(frozen=True, kw_only=True)
class Teacher(Choice):
    """The second network of a method that has one: it teaches (kd, fitnet, attention_transfer) or learns along (dml).

    Attributes:
        run: folder of the finished run that trained it; null where it is trained first, in the folder `teacher` of the
            run itself, or where it learns along.
    """

    run: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "run": self.run, **self.options}


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the players are updated.

    Args:
        lr: learning rate of the student before the schedule, and so zeta of eq. 7; > 0. Paper 4.1.
        backbone_lr_factor: factor on the student's learning rate for the network but its head, above 0: below 1 where
            it begins with trained weights. Exits, head and everything else have the full rate. zeta of eq. 7 is `lr`:
            with a factor below 1 the look-ahead takes the body further than its own step does.
        momentum: of SGD, 0 to below 1; the paper is silent, 0.9 is common to every public recipe.
        nesterov: whether SGD looks ahead along its momentum.
        weight_decay: of SGD, on all parameters; >= 0. The paper is silent, 5e-4 fits its baselines.
        clip_norm: the largest gradient norm let through, per player; > 0, or null for no clipping.
        schedule: step (multiply by gamma at each milestone), cosine (to zero at the end) or constant.
        milestones: of the step schedule: below 1 a fraction of the run, from 1 on an epoch. Paper: 80 and 140 of 200.
        gamma: factor at each milestone, above 0 and at most 1. Paper 4.1: 0.1.
        warmup_epochs: epochs of linear warm-up from zero; >= 0.
        adam_betas: decay rates of Adam's two averages, each 0 to below 1.
        adam_eps: Adam's term against division by zero; > 0.
    """

    lr: float = 0.1
    backbone_lr_factor: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.4, 0.7)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "take a number above 0, such as 0.1")
        require(
            self.backbone_lr_factor > 0,
            "optim.backbone_lr_factor",
            self.backbone_lr_factor,
            "take a number above 0; --freeze is for what must not move",
        )
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "take 0 to below 1")
        require(
            self.momentum > 0 or not self.nesterov,
            "optim.nesterov",
            self.nesterov,
            "it needs a momentum above 0",
        )
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "take 0 or more")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "optim.clip_norm",
            self.clip_norm,
            "take a number above 0, or null",
        )
        require(
            self.schedule in ("step", "cosine", "constant"),
            "optim.schedule",
            self.schedule,
            "take step, cosine or constant",
        )
        require(all(m > 0 for m in self.milestones), "optim.milestones", self.milestones, "take numbers above 0")
        require(
            all(m < 1 or m == int(m) for m in self.milestones),
            "optim.milestones",
            self.milestones,
            "take fractions below 1, or whole epochs",
        )
        require(
            list(self.milestones) == sorted(self.milestones),
            "optim.milestones",
            self.milestones,
            "sort them upwards",
        )
        require(0 < self.gamma <= 1, "optim.gamma", self.gamma, "take a number above 0 and at most 1")
        require(self.warmup_epochs >= 0, "optim.warmup_epochs", self.warmup_epochs, "take 0 or more")
        require(
            all(0 <= b < 1 for b in self.adam_betas),
            "optim.adam_betas",
            self.adam_betas,
            "take two numbers, 0 to below 1",
        )
        require(self.adam_eps > 0, "optim.adam_eps", self.adam_eps, "take a number above 0")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to training images on top of a data set's own crop and mirror; the paper has none of it.

    Args:
        policy: none, or torchvision's randaugment, autoaugment or trivialaugment, before normalisation.
        random_erasing: probability that a rectangle of an image is set to the mean colour, 0 to 1.
        mixup: alpha of mixup, >= 0; 0 for none.
        cutmix: alpha of CutMix, >= 0; 0 for none. With mixup too, each batch has one of the two, by a fair draw.
    Source: Cubuk et al. 2019 and 2020; Mueller and Hutter 2021; Zhong et al. 2020; Zhang et al. 2018; Yun et al. 2019.
    """

    policy: Literal["none", "randaugment", "autoaugment", "trivialaugment"] = "none"
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.policy in ("none", "randaugment", "autoaugment", "trivialaugment"),
            "augment.policy",
            self.policy,
            "take none, randaugment, autoaugment or trivialaugment",
        )
        require(0 <= self.random_erasing <= 1, "augment.random_erasing", self.random_erasing, "take 0 to 1")
        require(0 <= self.mixup < math.inf, "augment.mixup", self.mixup, "take 0 or more, such as 0.2")
        require(0 <= self.cutmix < math.inf, "augment.cutmix", self.cutmix, "take 0 or more, such as 1")


# Settings of what is learned from, images and labels, in which the rows of a comparison may differ, as they do in their
# methods' options; by name or by family.
OF_A_ROW = ("augment", "label_smoothing", "class_weights", "sampling", "heldout_share")


def is_of_a_row(option: str) -> bool:
    """Whether NAME=VALUE, or NAME alone, with a dotted name, is one of them."""
    return option.partition("=")[0].partition(".")[0] in OF_A_ROW


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run.

    Args:
        data: the data set and its options.
        model: the network and its options.
        method: the training method and its options.
        teacher: the second network, for a method that has one; null for all others.
        optim: learning rates, schedule and the like.
        augment: what happens to training images besides crop and mirror.
        epochs: passes over the training set; >= 1. Paper 4.1: 200.
        batch_size: images a step, of all ranks together; >= 2, because batch normalisation needs a batch. The paper is
            silent; 128.
        pretrained: whether the network begins with its publisher's weights (timm/NAME, torchvision/NAME).
        weights: a safetensors file that it begins with, under the network's own keys; null for none.
        freeze: modules of the network that stay as they are, weights and batch statistics; by the names that
            `named_modules` gives them.
        label_smoothing: mass moved from the label to all classes in every hard-label loss of training, 0 to below 1.
        class_weights: of every hard-label loss of training, mean 1 over the training images: none, inverse (of the
            class's number of images) or effective (Cui et al., CVPR 2019, beta 0.999). The held-out loss has none.
        sampling: uniform (each image once an epoch) or balanced (each class as often as the next).
        heldout_share: of each class's training images, drawn by the seed, that no step trains on: the held-out loss of
            eq. 8 is of them alone. 0 takes it from what the student trains on in other steps, as Algorithm 1 does; a
            method without a meta step trains without them all the same. 0 to below 1.
        seed: of everything that is drawn; on a processor the same seed, machine and threads give the same bits.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: of training: float32, bfloat16 (autocast), or auto: what is faster for this network on this machine,
            measured once and kept (engine/formats.py). Evaluation is float32 always.
        memory_format: contiguous, channels_last, or auto: as with precision.
        batch_statistics: of batch normalisation where several ranks train: local (each rank's images are normalised by
            themselves, and running statistics are the mean over ranks) or synchronised (by all ranks' images, as one
            process would; one more exchange in each such layer).
        threads: processor threads, >= 1, or null for torch's own choice. The number changes the last bits.
        evaluate_every: epochs between evaluations on the test set (the last epoch always is evaluated); >= 1.
        eval_batch_size: images a step in evaluation; >= 1.
        ensemble: mean of the exits' logits or of their probabilities.
        checkpoint_every_steps: steps between checkpoints inside an epoch, besides the one after each; >= 1, or null.
        keep_checkpoints: how many are kept, the newest; >= 1.
    """

    data: Choice
    model: Choice
    method: Choice
    teacher: Teacher | None = None
    optim: Optim = field(default_factory=Optim)
    augment: Augmentation = field(default_factory=Augmentation)
    epochs: int = 200
    batch_size: int = 128
    pretrained: bool = False
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    class_weights: Literal["none", "inverse", "effective"] = "none"
    sampling: Literal["uniform", "balanced"] = "uniform"
    heldout_share: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    batch_statistics: Literal["local", "synchronised"] = "local"
    threads: int | None = None
    evaluate_every: int = 1
    eval_batch_size: int = 500
    ensemble: Literal["logits", "probabilities"] = "logits"
    checkpoint_every_steps: int | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "take 1 or more")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "batch normalisation needs 2 or more")
        require(
            self.weights is None or not self.pretrained, "weights", self.weights, "give it or --pretrained, not both"
        )
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "take 0 to below 1")
        require(
            self.class_weights in ("none", "inverse", "effective"),
            "class_weights",
            self.class_weights,
            "take none, inverse or effective",
        )
        require(self.sampling in ("uniform", "balanced"), "sampling", self.sampling, "take uniform or balanced")
        require(0 <= self.heldout_share < 1, "heldout_share", self.heldout_share, "take 0 to below 1, such as 0.1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "take a whole number from 0 to 2**63 - 1")
        require(
            self.precision in ("auto", "float32", "bfloat16"),
            "precision",
            self.precision,
            "take auto, float32 or bfloat16",
        )
        require(
            self.memory_format in ("auto", "contiguous", "channels_last"),
            "memory_format",
            self.memory_format,
            "take auto, contiguous or channels_last",
        )
        require(
            self.batch_statistics in ("local", "synchronised"),
            "batch_statistics",
            self.batch_statistics,
            "take local or synchronised",
        )
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "take 1 or more, or null")
        require(self.evaluate_every >= 1, "evaluate_every", self.evaluate_every, "take 1 or more")
        require(self.eval_batch_size >= 1, "eval_batch_size", self.eval_batch_size, "take 1 or more")
        require(
            self.ensemble in ("logits", "probabilities"),
            "ensemble",
            self.ensemble,
            "take logits or probabilities",
        )
        require(
            self.checkpoint_every_steps is None or self.checkpoint_every_steps >= 1,
            "checkpoint_every_steps",
            self.checkpoint_every_steps,
            "take 1 or more, or null",
        )
        require(self.keep_checkpoints >= 1, "keep_checkpoints", self.keep_checkpoints, "take 1 or more")

    def as_dict(self) -> dict[str, Any]:
        """Plain values in the order of the fields, as config.yaml holds them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for family in ("data", "model", "method"):
            values[family] = getattr(self, family).as_dict()
        values["freeze"] = list(self.freeze)
        values["teacher"] = self.teacher.as_dict() if self.teacher else None
        values["optim"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.optim).items()
        }
        values["augment"] = asdict(self.augment)
        return values
