"""What is said of a run's outputs, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from metadistiller.outcomes import Outcomes
from metadistiller.report._diagrams import chain
from metadistiller.report._judging import THRESHOLDS, judge, scale
from metadistiller.report._outputs import TABLED


def certain(*shares: float) -> list[float]:
    """Logits of two classes that give class 0 this share, and so on for each image: (n, 2) flattened by the caller."""
    return [math.log(share / (1 - share)) for share in shares]


def outcomes(*shares_of_class_0: list[float], labels: list[int]) -> Outcomes:
    """Each argument is an output: the probability that it gives class 0 of each image."""
    logits = np.array([[[value, 0.0] for value in certain(*shares)] for shares in shares_of_class_0], dtype=np.float32)
    num_outputs, count = logits.shape[:2]
    return Outcomes(
        logits=logits,
        labels=np.array(labels),
        index=np.arange(count),
        total=count,
        trunk_macs=tuple(100 * (k + 1) for k in range(num_outputs)),
        exit_macs=(10,) * (num_outputs - 1),
    )


FINAL = [0.9, 0.9, 0.9, 0.3]  # of class 0; so the answers are 0, 0, 0 and 1, with 0.9, 0.9, 0.9 and 0.7


def test_error_and_likelihood_are_those_of_the_formula() -> None:
    judged = judge(outcomes(FINAL, labels=[0, 0, 1, 1]))
    (final,) = judged.outputs
    assert (judged.count, judged.total, judged.macs, judged.exits) == (4, 4, 100, None)
    assert final.accuracy == 0.75
    # Three images with 0.9, of which two are right, and one with 0.7 that is.
    assert final.before.bins.ece == pytest.approx((3 * (0.9 - 2 / 3) + (1 - 0.7)) / 4, abs=1e-6)
    assert final.before.nll == pytest.approx(-(2 * math.log(0.9) + math.log(0.1) + math.log(0.7)) / 4, abs=1e-6)


def test_each_half_is_judged_with_the_temperature_of_the_other() -> None:
    """Every other image of a class is in the second half; that one is right as often as it says, the first is not."""
    labels = [0] * 20
    first, second = [0.8] * 10, [0.8] * 10
    labels[0:20:2] = [0, 1] * 5  # of the first half with 0.8 half is right
    labels[1:20:2] = [0, 0, 0, 0, 1] * 2  # of the second four in five
    order = np.argsort(labels, kind="stable")
    halves = np.empty(20, dtype=bool)
    halves[order] = np.arange(20) % 2 == 1
    mixed = [share for pair in zip(first, second, strict=True) for share in pair]
    (final,) = judge(outcomes(mixed, labels=labels)).outputs
    shares = [np.mean([labels[i] == 0 for i in range(20) if halves[i] == half]) for half in (False, True)]
    # The temperature of a half turns ln 4 into the logit of its share that is right; it judges the other half.
    expected = [math.log(4) / math.log(share / (1 - share)) for share in reversed(shares)]
    assert final.temperatures == pytest.approx(expected, rel=1e-4)


def test_exits_cost_what_was_passed_and_asked() -> None:
    exits = judge(outcomes([0.9, 0.6, 0.6, 0.6], [0.9, 0.9, 0.6, 0.6], FINAL, labels=[0, 0, 1, 1])).exits
    assert exits is not None
    assert (exits.plain.accuracy, exits.plain.macs, exits.plain.left) == (75.0, 300.0, (0, 0, 4))
    assert [(point.accuracy, point.macs) for point in exits.singles] == [(50.0, 110.0), (50.0, 210.0)]
    assert [point.threshold for point in exits.common] == list(THRESHOLDS)
    assert (exits.common[0].macs, exits.common[0].left) == (110.0, (4, 0, 0))
    # Where nothing is certain enough, the image passes both exits in vain.
    assert exits.common[-1].left == (0, 0, 4)
    assert exits.common[-1].macs == 320.0
    for point in exits.common:
        spent = [110, 220, 320]
        assert point.macs == pytest.approx(sum(n * cost for n, cost in zip(point.left, spent, strict=True)) / 4)


def test_every_threshold_of_the_table_is_on_the_curve() -> None:
    assert set(TABLED) <= set(THRESHOLDS)


@pytest.mark.parametrize(
    ("macs", "factor", "letter"), [(5, 1, ""), (2e3, 1e3, "k"), (1.6e7, 1e6, "M"), (4e9, 1e9, "G")]
)
def test_costs_are_said_in_the_unit_that_fits(macs: float, factor: float, letter: str) -> None:
    assert scale(macs) == (factor, letter)


def test_confused_classes_become_neighbours() -> None:
    counts = [[10 if row == column else 0 for column in range(6)] for row in range(6)]
    for one, other, images in ((0, 3, 9), (3, 5, 5), (5, 1, 3), (2, 4, 8)):
        counts[one][other] = images
    order = chain(counts)
    assert sorted(order) == list(range(6))
    assert order[:4] == [0, 3, 5, 1]
    assert set(order[4:]) == {2, 4}
