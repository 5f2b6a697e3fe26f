"""What follows from the outputs of a run (outcomes.safetensors): whether probabilities are what they say, and what
early exits would save. As plain values, so that the outputs themselves need not stay in memory.
"""

from dataclasses import dataclass

import numpy as np

from metadistiller.outcomes import Floats, Integers, Outcomes, exit_names, halves, output_names
from metadistiller.outcomes.calibration import Reliability, log_probabilities, nll, reliability, two_fold
from metadistiller.outcomes.policy import curve, fit_temperatures

# Of the curve; close together near 1, where most images leave.
THRESHOLDS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1)
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How good probabilities are.

    Attributes:
        nll: mean negative log-likelihood of the labels, nats.
        bins: images by their confidence, with the expected calibration error.
    """

    nll: float
    bins: Reliability


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one output, before and after its logits are divided by a temperature.

    Attributes:
        name: as in evaluation.json.
        accuracy: 0 to 1, of these images.
        before, after: each half of the images is judged `after` with the temperature that the other half gave.
        temperatures: what the first half was divided by, and the second.
    """

    name: str
    accuracy: float
    before: Quality
    after: Quality
    temperatures: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What images are answered with, and what for.

    Attributes:
        threshold: the common one; None where one output answers all.
        accuracy: percent.
        macs: mean multiply-accumulates of an image.
        left: how many images each of the K outputs answers.
    """

    threshold: float | None
    accuracy: float
    macs: float
    left: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Exits:
    """Early exits against their cost.

    Attributes:
        plain: the network without exits.
        singles: each early exit answering everything by itself, shallow first.
        common: one threshold for all exits, rising; each half of the images by probabilities with the temperatures that
            the other half gave.
    """

    plain: Point
    singles: tuple[Point, ...]
    common: tuple[Point, ...]

    @property
    def named_singles(self) -> list[tuple[str, Point]]:
        """`singles`, each with the name of its exit."""
        return list(zip(exit_names(len(self.singles)), self.singles, strict=True))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Everything that is said of a run's outputs.

    Attributes:
        count, total: images whose outputs were kept, and test images.
        outputs: exits (shallow first), final.
        macs: multiply-accumulates of the plain network for one image.
        exits: None for a network without.
    """

    count: int
    total: int
    outputs: tuple[Calibration, ...]
    macs: int
    exits: Exits | None

    @property
    def final(self) -> Calibration:
        return self.outputs[-1]


def judge(outcomes: Outcomes) -> Judged:
    names = output_names(outcomes.num_outputs)
    return Judged(
        count=len(outcomes.labels),
        total=outcomes.total,
        outputs=tuple(
            _calibration(name, logits, outcomes.labels) for name, logits in zip(names, outcomes.logits, strict=True)
        ),
        macs=outcomes.trunk_macs[-1],
        exits=_exits(outcomes) if len(names) > 1 else None,
    )


def scale(macs: float) -> tuple[float, str]:
    """What to divide multiply-accumulates by, and the letter that says so."""
    return next((unit for unit in UNITS if macs >= unit[0]), (1.0, ""))


def _calibration(name: str, logits: Floats, labels: Integers) -> Calibration:
    scaled, temperatures = two_fold(logits, labels)
    before = log_probabilities(logits)
    return Calibration(
        name=name,
        accuracy=float((before.argmax(1) == labels).mean()),
        before=_quality(before, labels),
        after=_quality(scaled, labels),
        temperatures=temperatures,
    )


def _quality(log_shares: Floats, labels: Integers) -> Quality:
    # A rounding above 1 would be in no bin.
    certain = np.minimum(1.0, np.exp(log_shares.max(1)))
    # Where everything is certain and right the mean is -0.0, and nobody wants to read that.
    return Quality(nll=nll(log_shares, labels) + 0.0, bins=reliability(certain, log_shares.argmax(1) == labels))


def _exits(outcomes: Outcomes) -> Exits:
    count = len(outcomes.labels)
    percent = [100 * float(right.mean()) for right in outcomes.right]

    def alone(k: int, macs: int) -> Point:
        left = tuple(count if place == k else 0 for place in range(outcomes.num_outputs))
        return Point(threshold=None, accuracy=percent[k], macs=float(macs), left=left)

    costs = zip(outcomes.trunk_macs, outcomes.exit_macs, strict=False)
    return Exits(
        plain=alone(outcomes.num_outputs - 1, outcomes.trunk_macs[-1]),
        singles=tuple(alone(k, trunk + exit_) for k, (trunk, exit_) in enumerate(costs)),
        common=_common(outcomes),
    )


def _common(outcomes: Outcomes) -> tuple[Point, ...]:
    second = halves(outcomes.labels)
    if second.all() or not second.any():
        found = [curve(outcomes, THRESHOLDS)]
    else:
        parts = [outcomes.of(~second), outcomes.of(second)]
        fitted = [fit_temperatures(part) for part in parts]
        found = [curve(part, THRESHOLDS, others) for part, others in zip(parts, reversed(fitted), strict=True)]
    count = len(outcomes.labels)
    return tuple(
        Point(
            threshold=threshold,
            accuracy=100 * sum(each.right for each in same) / count,
            macs=sum(each.macs * each.count for each in same) / count,
            left=tuple(map(sum, zip(*(each.left for each in same), strict=True))),
        )
        for threshold, *same in zip(THRESHOLDS, *found, strict=True)
    )
