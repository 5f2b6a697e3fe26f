"""Student's t by its tables, its limits and its own integral; paired differences by hand and by simulation."""

import math
import random
from itertools import pairwise
from statistics import NormalDist

import pytest

from metadistiller.paired import Difference, mean_and_deviation, paired_difference, t_quantile, told_mean

PROBABILITIES = (0.5, 0.6, 0.75, 0.9, 0.975, 0.995)

# The quantile


@pytest.mark.parametrize(
    ("degrees", "value"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (128, 1.97867)],
)
def test_tabulated_values(degrees: int, value: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=6e-5 if degrees == 1 else 6e-6)


def density(t: float, degrees: int) -> float:
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    return math.exp(scale - (degrees + 1) / 2 * math.log1p(t * t / degrees))


@pytest.mark.parametrize("degrees", [*range(1, 13), 29, 30, 64])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_the_density_integrates_to_the_probability(degrees: int, probability: float) -> None:
    end, pieces = t_quantile(probability, degrees), 4000
    step = end / pieces
    weights = [1, *([4, 2] * (pieces // 2))[:-1], 1]
    inside = math.fsum(w * density(i * step, degrees) for i, w in enumerate(weights)) * step / 3
    assert inside == pytest.approx(probability - 0.5, abs=1e-7)


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_closed_forms_of_one_and_two_degrees(probability: float) -> None:
    assert t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), abs=1e-9)
    two = (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    assert t_quantile(probability, 2) == pytest.approx(two, abs=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 7, 50])
def test_the_median_is_zero_and_the_quantile_rises(degrees: int) -> None:
    values = [t_quantile(probability, degrees) for probability in PROBABILITIES]
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert all(low < high for low, high in pairwise(values))


def test_more_degrees_come_down_to_the_normal_quantile() -> None:
    values = [t_quantile(0.975, degrees) for degrees in range(1, 60)]
    assert all(high > low for high, low in pairwise(values))
    normal = NormalDist().inv_cdf(0.975)
    assert values[-1] > normal
    assert t_quantile(0.975, 20_000) == pytest.approx(normal, abs=2e-4)
    assert t_quantile(0.975, 20_001) == pytest.approx(normal, abs=2e-4)


# Mean and deviation


def test_mean_and_deviation_by_hand() -> None:
    mean, deviation = mean_and_deviation([1.0, 2.0, 3.0, 4.0])
    assert (mean, deviation) == pytest.approx((2.5, math.sqrt(5 / 3)))
    assert mean_and_deviation([7.0, 7.0]) == (7.0, 0.0)
    assert mean_and_deviation([7.0]) == (7.0, None)


def test_a_large_common_part_costs_no_digits() -> None:
    _, deviation = mean_and_deviation([1e9 + value for value in (0.0, 0.25, 0.5)])
    assert deviation == 0.25


# In words


def test_means_and_differences_are_told_with_what_they_stand_on() -> None:
    assert told_mean(79.054, 0.206) == "79.05 ± 0.21"
    assert told_mean(79.054, None, ".3f") == "79.054"
    assert Difference(1.021, (0.41, -0.006)).told() == "+1.02 (+0.41 to -0.01)"
    assert Difference(-1.0, None).told("3 pairs", "batch_size=64") == "-1.00 (one seed; 3 pairs; batch_size=64)"


# The difference


def test_three_pairs_by_hand() -> None:
    found = paired_difference([71.0, 73.0, 75.0], [70.0, 71.0, 72.0])
    assert found.mean == pytest.approx(2)
    half = 4.30265 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_two_pairs_by_hand() -> None:
    found = paired_difference([1.0, 2.0], [0.0, 0.0])
    # The deviation is sqrt(1/2), so the standard error is 1/2.
    assert found.interval == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), abs=1e-4)


def test_the_same_difference_every_time_leaves_no_doubt() -> None:
    found = paired_difference([5.0, 8.0, 2.0], [4.0, 7.0, 1.0])
    assert (found.mean, found.interval) == (1.0, (1.0, 1.0))


def test_a_single_pair_says_nothing_about_spread() -> None:
    found = paired_difference([5.0], [3.0])
    assert (found.mean, found.interval) == (2.0, None)


def test_pairs_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def rows(count: int) -> tuple[list[float], list[float]]:
    draw = random.Random(count)
    return [draw.gauss(70, 1) for _ in range(count)], [draw.gauss(69, 1) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_laws_of_a_difference(count: int) -> None:
    ours, theirs = rows(count)
    found = paired_difference(ours, theirs)
    assert found.interval is not None
    low, high = found.interval
    assert low < found.mean < high
    assert (low + high) / 2 == pytest.approx(found.mean)

    swapped = paired_difference(theirs, ours)
    assert swapped.mean == pytest.approx(-found.mean)
    assert swapped.interval == pytest.approx((-high, -low))

    # What a seed does to both rows alike does not count.
    common = [3.0 * index for index in range(count)]
    moved = paired_difference(
        [a + c for a, c in zip(ours, common, strict=True)], [b + c for b, c in zip(theirs, common, strict=True)]
    )
    assert moved.interval == pytest.approx(found.interval)

    doubled = paired_difference([2 * a for a in ours], [2 * b for b in theirs])
    assert doubled.interval == pytest.approx((2 * low, 2 * high))

    reversed_ = paired_difference(ours[::-1], theirs[::-1])
    assert reversed_.interval == pytest.approx(found.interval)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_interval_holds_the_truth_95_times_in_100(count: int) -> None:
    draw, truth, rounds, held = random.Random(count), 0.7, 3000, 0
    for _ in range(rounds):
        theirs = [draw.gauss(70, 2) for _ in range(count)]
        ours = [value + draw.gauss(truth, 0.5) for value in theirs]
        interval = paired_difference(ours, theirs).interval
        assert interval is not None
        held += interval[0] < truth < interval[1]
    assert held / rounds == pytest.approx(0.95, abs=0.02)
