"""What a method is: it says what to minimise over which parameters, and the engine does it.

A method is one module with Options, NAMES and `build(options, setting) -> Method` (see metadistiller.lookup). One that
learns with a second network says which kind: PARTNER = "teacher" (trained before) or "peer" (learns along).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from ..data import Stream, Train
from ..nn import Backbone, MultiExit
from ..ranks import ALONE, Ranks


@dataclass(frozen=True)
class Setting:
    """What every method is built from.

    Attributes:
        backbone: the network that is to become better.
        size: height and width of the images.
        seed: for the initial weights of whatever the method adds.
        label_smoothing: of every hard-label loss of training, 0 to below 1.
        class_weights: of every hard-label loss of training, (C,) float32; None for no weights.
        epochs: of the whole run, for methods that change on the way.
        teacher: a trained network, for a method whose module says PARTNER = "teacher". It may lie on the meta device,
            with shapes and no weights, where the method is restored only to be asked.
        peer: a fresh network, for a method whose module says PARTNER = "peer".
        ranks: which have the batches between them.
    """

    backbone: Backbone
    size: tuple[int, int]
    seed: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    epochs: int = 1
    teacher: Backbone | None = None
    peer: Backbone | None = None
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Player:
    """Parameters that move together.

    Attributes:
        module: whose parameters.
        optimizer: which kind updates them.
        lr: learning rate before the schedule; None takes the run's.
    """

    module: nn.Module
    optimizer: Literal["sgd", "adam"]
    lr: float | None = None


@dataclass(frozen=True)
class Losses:
    """A loss and what it is made of.

    Attributes:
        total: scalar to minimise.
        parts: detached scalars for the record, by name; the student's hold its "loss".
        share: of a batch that several ranks have between them, the share that `total` is the mean over; None where
            that is the share of the objective's own batch.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One update.

    Attributes:
        of: name of the player that moves.
        loss: from a batch of `stream` and the players' current learning rates by name. Objectives of one step on the
            same stream get the same batch.
        stream: where the batch comes from.
        every_steps: the update happens in each so-manieth step of the epoch, from the first on.
        waits: the player moves at the end of the step instead of at once. Objectives in between find its parameters as
            they were, and their gradient of this loss, not yet clipped, in .grad.
    """

    of: str
    loss: Callable[[Any, Mapping[str, float]], Losses]
    stream: Stream = field(default_factory=Train)
    every_steps: int = 1
    waits: bool = False


class Method(nn.Module, ABC):
    """A way to train a network. Its state_dict is everything that a checkpoint must hold of it, optimizers apart."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block, evaluation mode; afterwards the mode that it was in."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    @abstractmethod
    def players(self) -> dict[str, Player]:
        """Whose parameters move, by name; always a "student" among them."""

    @abstractmethod
    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        """What runs in each step of `epoch` (from 0), in order."""

    @abstractmethod
    def exits(self, images: Tensor) -> list[Tensor]:
        """Logits S_1..S_K, shallow first, (N, C) each; the last is the final output."""

    @abstractmethod
    def soft_targets(self, images: Tensor) -> list[Tensor]:
        """Probabilities T_1..T_{K-1}, (N, C) each, shallow first; empty for a method without soft targets."""

    @abstractmethod
    def multi_exit(self) -> MultiExit | None:
        """The student with the early exits that `exits` asks; None for a method without."""

    @abstractmethod
    def deployable(self) -> Backbone:
        """The plain network that ships; nothing else is needed to answer."""
