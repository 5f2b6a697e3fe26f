"""The numbers of the page, as rows of text."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from metadistiller.paired import mean_and_deviation, told_mean

from ._judging import scale
from ._reading import printable
from ._run import Evaluation, Run

Z_95 = 1.959963984540054  # the standard normal has 95 % of its mass within +- Z_95


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """'79.05 ± 0.21': mean and sample deviation; a single value stands alone."""
    return told_mean(*mean_and_deviation(values), form) if values else "–"


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share.

    Unlike the share +- 1.96 deviations it stays inside 0 to 1 and is right near both ends.

    Returns: lower and upper end, 0 to 1.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, spread = successes / count, Z_95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # Both ends are exact in theory; rounding must not put the share outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclass(frozen=True)
class Accuracy:
    """A share of the test set: percent, and the ends of its interval."""

    percent: str
    low: str
    high: str


def accuracy(successes: int, count: int) -> Accuracy:
    low, high = wilson(successes, count)
    return Accuracy(f"{100 * successes / count:.2f}", f"{100 * low:.2f}", f"{100 * high:.2f}")


def accuracies(run: Run) -> list[tuple[str, Accuracy, Accuracy]]:
    """Name, top-1 and top-5 of every output; a network without exits has no ensemble to speak of."""
    hidden = () if run.result.exits else ("ensemble",)
    count = run.evaluation.count
    return [
        (output.name, accuracy(output.top1, count), accuracy(output.top5, count))
        for output in run.evaluation.outputs
        if output.name not in hidden
    ]


@dataclass(frozen=True)
class Entropies:
    """Mean entropies over the test set.

    Attributes:
        count: test images.
        limit: of a distribution in which all classes are alike, nats.
        rows: place, soft target, output.
    """

    count: str
    limit: str
    rows: list[tuple[str, str, str]]


def entropies(run: Run) -> Entropies | None:
    """Of every stage and of the final output; None where the run does not say."""
    means = run.entropy
    if means is None:
        return None
    targets = [f"{mean:.3f}" for mean in means.targets] or ["–"] * len(means.exits)
    rows = [
        (f"stage {k}", target, f"{exit_:.3f}")
        for k, (target, exit_) in enumerate(zip(targets, means.exits, strict=True), start=1)
    ]
    return Entropies(
        count=f"{means.count:,}",
        limit=f"{math.log(len(run.evaluation.classes)):.3f}",
        rows=[*rows, ("final", "–", f"{means.final:.3f}")],
    )


def headline(run: Run) -> str:
    result = run.result
    outputs = f"Final accuracy {result.final:.2f} %"
    if result.exits:
        outputs += f", ensemble of all {len(result.exits) + 1} exits {result.ensemble:.2f} %"
    epochs = "one epoch" if result.epochs == 1 else f"{result.epochs} epochs"
    return f"{outputs}, on {run.evaluation.count:,} test images after {epochs}."


@dataclass(frozen=True)
class Confusion:
    """Test images of one class that the final output takes for another."""

    true: str
    predicted: str
    images: int
    percent: str


def most_confused(evaluation: Evaluation, *, limit: int = 10) -> list[Confusion]:
    """The ordered pairs with most images, most first; ties in the order of the classes."""
    pairs = [
        (-images, true, predicted)
        for true, row in enumerate(evaluation.confusion)
        for predicted, images in enumerate(row)
        if true != predicted and images > 0
    ]
    return [
        Confusion(
            evaluation.classes[true],
            evaluation.classes[predicted],
            -negative,
            f"{-100 * negative / sum(evaluation.confusion[true]):.1f}",
        )
        for negative, true, predicted in sorted(pairs)[:limit]
    ]


@dataclass(frozen=True)
class OfClass:
    """How one class fares: images of it, how many are right, and what the wrong ones are mostly taken for."""

    name: str
    images: int
    share: Accuracy
    taken_for: str


def by_class(evaluation: Evaluation) -> list[OfClass]:
    """Those with test images, the worst first; ties in the order of the classes."""
    found = []
    for true, row in enumerate(evaluation.confusion):
        wrong = [images if predicted != true else 0 for predicted, images in enumerate(row)]
        most = max(range(len(row)), key=wrong.__getitem__)
        if sum(row):
            taken_for = f"{evaluation.classes[most]} ({wrong[most]})" if wrong[most] else "–"
            found.append(OfClass(evaluation.classes[true], sum(row), accuracy(row[true], sum(row)), taken_for))
    return sorted(found, key=lambda each: float(each.share.percent))


def cost(run: Run) -> list[tuple[str, str]]:
    rows = [("Training time", duration(run.result.seconds))]
    kinds = dict.fromkeys(epoch.objectives for epoch in run.epochs)
    for kind in kinds:
        same = [epoch for epoch in run.epochs if epoch.objectives == kind]
        # An epoch that was resumed for its evaluation alone says nothing of what its steps took.
        measured = [epoch for epoch in same if epoch.images_per_second > 0] or same
        seconds = median(epoch.seconds for epoch in measured)
        rate = median(epoch.images_per_second for epoch in measured)
        rows.append(
            (
                f"Epochs that train {printable(' and '.join(kind))}",
                f"{len(same)}, each {duration(seconds)} at {rate:,.0f} images/s (medians)",
            )
        )
    rows.append(("Peak memory", f"{run.result.peak_memory_mb:,.0f} MiB"))
    if run.judged:
        factor, letter = scale(run.judged.macs)
        rows.append(("The plain network, one image", f"{run.judged.macs / factor:.3g} {letter}MACs"))
    return rows


def pace(run: Run) -> float:
    """Images of training a second, the median over epochs; 0 where none was measured."""
    measured = [epoch.images_per_second for epoch in run.epochs if epoch.images_per_second > 0]
    return median(measured) if measured else 0.0


@dataclass(frozen=True)
class Times:
    """Where the time went.

    Attributes:
        coverage: over how much of the run that was measured.
        rows: part, seconds, share in percent, calls, milliseconds a call; what a part has not is "".
    """

    coverage: str
    rows: list[list[str]]


def times(run: Run) -> Times | None:
    """None where it was not measured."""
    profile = run.profile
    if profile is None:
        return None
    rows = [[printable(cell) for cell in profile.cells(part)] for part in profile.parts]
    return Times(profile.coverage(run.result.seconds), rows)


def environment(run: Run) -> list[tuple[str, str]]:
    return [(printable(str(key)), told(value)) for key, value in run.environment.items()]


def told(value: Any) -> str:
    """A value as a person reads it: words as they are, all else as JSON."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def duration(seconds: float) -> str:
    """Seconds as a person says them: '1.5 s', '3 min 20 s', '5 h 7 min'."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def entropy(shares: tuple[float, ...]) -> float:
    """Of a distribution, in nats: 0 where one class has everything, ln C where all have the same."""
    return -math.fsum(share * math.log(share) for share in shares if share > 0) + 0.0
