"""What is said of a run's outputs, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from metadistiller.outcomes import Outcomes
from metadistiller.report._diagrams import chain
from metadistiller.report._judging import THRESHOLDS, judge, scale
from metadistiller.report._outputs import TABLED, calibration_row


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


def test_no_loss_is_less_than_nothing() -> None:
    """A run that is certain and right everywhere has a mean of -0.0, which would be read as -0.000."""
    sure = np.array([[[0.0, -900.0]] * 4], dtype=np.float32)
    (final,) = judge(
        Outcomes(logits=sure, labels=np.zeros(4, int), index=np.arange(4), total=4, trunk_macs=(1,), exit_macs=())
    ).outputs
    assert calibration_row(final)[3] == "0.000"
    assert calibration_row(final)[6] == "0.000"


def halved() -> tuple[list[int], np.ndarray]:
    """Labels of twenty images, and which are in the second half: in each class every other one. Of class 0 are half of
    the first half, and four in five of the second.
    """
    labels = np.array([0, 0, 1, 0] * 5)
    labels[[6, 18]] = 0
    halves = np.empty(20, dtype=bool)
    halves[np.argsort(labels, kind="stable")] = np.arange(20) % 2 == 1
    return labels.tolist(), halves


def shares_of_halves(labels: list[int], halves: np.ndarray) -> list[float]:
    return [float(np.mean(np.array(labels)[halves == half] == 0)) for half in (False, True)]


def test_each_half_is_judged_with_the_temperature_of_the_other() -> None:
    labels, halves = halved()
    first, second = shares_of_halves(labels, halves)
    assert first != second
    (final,) = judge(outcomes([0.85] * 20, labels=labels)).outputs
    # The temperature that fits a half turns 0.85 into the share that is right there; it judges the other half.
    logit = math.log(0.85 / 0.15)
    expected = [logit / math.log(share / (1 - share)) for share in (second, first)]
    assert final.temperatures == pytest.approx(expected, rel=1e-4)
    said = [first if half else second for half in halves]
    right = [share if label == 0 else 1 - share for share, label in zip(said, labels, strict=True)]
    assert final.after.nll == pytest.approx(-np.log(right).mean(), rel=1e-4)


def test_thresholds_are_of_probabilities_with_the_temperature_of_the_other_half() -> None:
    labels, halves = halved()
    first, second = shares_of_halves(labels, halves)
    exits = judge(outcomes([0.85] * 20, [0.15] * 20, labels=labels)).exits
    assert exits is not None
    low, high = sorted((first, second))
    between = [point for point in exits.common if point.threshold and low < point.threshold < high]
    assert between
    # The exit is `second` certain of the first half, and `first` of the second.
    leaving = halves if first > second else ~halves
    # The exit says class 0, the final output class 1.
    right = (np.array(labels) == 0) == leaving
    for point in between:
        assert point.left == (leaving.sum(), 20 - leaving.sum())
        assert point.macs == pytest.approx((110 * leaving.sum() + 210 * (20 - leaving.sum())) / 20)
        assert point.accuracy == pytest.approx(100 * right.mean())


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
