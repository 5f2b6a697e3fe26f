"""A finished run as plain values: what the page is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metadistiller.outcomes.chosen import EarlyExit
from metadistiller.outcomes.mistakes import Mistakes
from metadistiller.timing import Profile

from ._judging import Judged


@dataclass(frozen=True, kw_only=True)
class Series:
    """A quantity over epochs; epochs without a value are left out.

    Attributes:
        epochs: epochs done when the value was taken, >= 1, rising.
        values: finite, as many as epochs.
    """

    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Output:
    """How many test images an output puts right: its first guess, one of its five first."""

    name: str
    top1: int
    top5: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was counted on the test set.

    Attributes:
        count: test images, >= 1.
        classes: C names.
        outputs: exits (shallow first), final, ensemble.
        loss: cross-entropy of the final output, nats.
        confusion: C rows (true class) of C counts (predicted class), of the final output.
    """

    count: int
    classes: tuple[str, ...]
    outputs: tuple[Output, ...]
    loss: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A test image with what the soft targets and the outputs say about it.

    Attributes:
        png: base64.
        index: its place in the test set; None where an older run does not say.
        label: index of the true class.
        targets: C probabilities of each T_k, shallow first; empty for a method without soft targets.
        exits: C probabilities of each early exit, softmax(S_k); empty for a method without, and in an older run.
        final: C probabilities, softmax(S_K).
    """

    png: str
    index: int | None
    label: int
    targets: tuple[tuple[float, ...], ...]
    exits: tuple[tuple[float, ...], ...]
    final: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Means over the test set in nats, 0 (one class has everything) to ln C.

    Attributes:
        count: test images, >= 1.
        targets: of each T_k, shallow first; empty for a method without soft targets.
        exits: of each early exit; empty for a method without.
        final: of the final output.
    """

    count: int
    targets: tuple[float, ...]
    exits: tuple[float, ...]
    final: float


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """Training from a start or a resume on: the command, and how many epochs and further steps were done before."""

    command: str
    epoch: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch cost; `objectives` names the players that were trained in it."""

    epoch: int
    seconds: float
    images_per_second: float
    objectives: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """result.json; accuracies in percent, `exits` shallow first and without the final one. `seed` is None in a run from
    before it was written.
    """

    method: str
    network: str
    data: str
    seed: int | None
    epochs: int
    exits: tuple[float, ...]
    final: float
    ensemble: float
    seconds: float
    peak_memory_mb: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the page shows.

    Attributes:
        name: of the folder.
        settings: config.yaml word for word.
        values: the same, read.
        changed: the settings that were asked for, by dotted name; None in a run from before they were recorded.
        entropy: None in a run from before it was recorded; so are the outputs of the exits in `exhibits` then.
        mistakes, judged: None in a run from before there was mistakes.json, or outcomes.safetensors.
        early_exit: None where nobody has calibrated.
        series: columns of results.csv by name.
        environment: of the last sitting.
        sittings: in order, at least one.
        profile: None where nobody asked for it.
    """

    name: str
    settings: str
    values: Mapping[str, Any]
    changed: Mapping[str, Any] | None
    result: Result
    evaluation: Evaluation
    exhibits: tuple[Exhibit, ...]
    entropy: Entropy | None
    mistakes: Mistakes | None
    judged: Judged | None
    early_exit: EarlyExit | None
    series: Mapping[str, Series]
    epochs: tuple[Epoch, ...]
    environment: Mapping[str, Any]
    sittings: tuple[Sitting, ...]
    profile: Profile | None

    @property
    def schedule(self) -> str:
        """The learning rate's."""
        return str(self.values["optim"]["schedule"])
