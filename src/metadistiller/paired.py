"""Is one row better than another? Paired differences over seeds, with Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A mean difference over n pairs.

    Attributes:
        mean: of the differences.
        interval: the 95 % confidence interval of that mean; None for a single pair, which says nothing about spread.
    """

    mean: float
    interval: tuple[float, float] | None

    def told(self, *further: str) -> str:
        """'+1.02 (+0.41 to +1.63; 3 pairs)': with the interval, and what else stands in the parentheses."""
        interval = "one seed" if self.interval is None else "{:+.2f} to {:+.2f}".format(*self.interval)
        return f"{self.mean:+.2f} ({'; '.join([interval, *further])})"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the deviation of a single value is None."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1))


def told_mean(mean: float, deviation: float | None, form: str = ".2f") -> str:
    """'79.05 ± 0.21'; the mean of a single value stands alone."""
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:{form}}")


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Of ours - theirs, pair by pair: the same seed gives both the same data order and the same initial network."""
    mean, deviation = mean_and_deviation([a - b for a, b in zip(ours, theirs, strict=True)])
    if deviation is None:
        return Difference(mean, None)
    half = t_quantile(0.975, len(ours) - 1) * deviation / math.sqrt(len(ours))
    return Difference(mean, (mean - half, mean + half))


def t_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t with so many degrees of freedom stays below, for a probability from 0.5 to below 1."""
    assert 0.5 <= probability < 1
    low, high = 0.0, 1.0
    while _t_cumulative(high, degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cumulative(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _t_cumulative(t: float, degrees: int) -> float:
    """P(T < t) for t >= 0, by the finite sum for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(theta)
    if degrees % 2:
        term, total = cosine, 0.0
        for k in range(1, (degrees - 1) // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k) / (2 * k + 1)
        inside = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, degrees // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1) / (2 * k)
        inside = math.sin(theta) * total
    return 0.5 + inside / 2
