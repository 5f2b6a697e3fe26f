"""The numbers of the page against values known from elsewhere."""

import math

import pytest

from metadistiller.report._run import Evaluation
from metadistiller.report._tables import duration, entropy, most_confused, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_newcombe(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_wilson_intervals_hold_the_share_and_mirror(count: int) -> None:
    for successes in (0, count // 3, count):
        low, high = wilson(successes, count)
        assert 0 <= low <= successes / count <= high <= 1
        assert wilson(count - successes, count) == pytest.approx((1 - high, 1 - low))


def test_most_confused_pairs_come_in_order_and_only_where_there_are_any() -> None:
    evaluation = Evaluation(
        count=30, classes=("a", "b", "c"), outputs=(), loss=0.0, confusion=((7, 3, 0), (3, 5, 2), (0, 0, 10))
    )
    pairs = [(pair.true, pair.predicted, pair.images, pair.percent) for pair in most_confused(evaluation)]
    assert pairs == [("a", "b", 3, "30.0"), ("b", "a", 3, "30.0"), ("b", "c", 2, "20.0")]
    assert len(most_confused(evaluation, limit=1)) == 1


def test_entropy_goes_from_zero_to_the_log_of_the_classes() -> None:
    assert entropy((0.0, 1.0, 0.0)) == 0
    assert entropy((0.25,) * 4) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (372.4, "6 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7259.0, "2 h 1 min"),
    ],
)
def test_durations_are_said_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
