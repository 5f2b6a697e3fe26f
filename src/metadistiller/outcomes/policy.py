"""Which exit answers which image: the first whose confidence reaches its threshold; what is left, the final output."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from . import Floats, Outcomes
from .calibration import fit_temperature, log_probabilities

QUANTILES = 32  # thresholds that are tried for each exit
PRICES = 25  # exchange rates between an error and its cost that are tried
NEVER = math.inf


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When an exit may answer.

    Attributes:
        temperatures: K, above 0; what logits are divided by before the softmax.
        thresholds: K - 1 probabilities, 0 to 1, from which an exit answers; None for an exit that is not there at all,
            and costs nothing.
    Raises: ConfigError.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.temperatures) != len(self.thresholds) + 1:
            raise ConfigError(
                f"{len(self.thresholds)} thresholds do not go with {len(self.temperatures)} temperatures; a network of "
                "K outputs has K temperatures and K - 1 thresholds"
            )
        for temperature in self.temperatures:
            if not 0 < temperature < math.inf:
                raise ConfigError(f"temperature is {temperature!r}; take a number above 0")
        for threshold in self.thresholds:
            if threshold is not None and not 0 <= threshold <= 1:
                raise ConfigError(f"threshold is {threshold!r}; take 0 to 1, or null for an exit that is not used")


def uniform(num_outputs: int, threshold: float, temperatures: Sequence[float] | None = None) -> Policy:
    """One threshold for every exit. Raises: ConfigError where it is not 0 to 1."""
    return Policy(temperatures=tuple(temperatures or (1.0,) * num_outputs), thresholds=(threshold,) * (num_outputs - 1))


@dataclass(frozen=True)
class Simulated:
    """What a policy does to images whose answers are known.

    Attributes:
        count: images.
        right: how many are answered right.
        left: K numbers; how many are answered by each output.
        macs: mean multiply-accumulates of an image; every exit that is asked before the one that answers counts.
    """

    count: int
    right: int
    left: tuple[int, ...]
    macs: float

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.right / self.count


def confidences(outcomes: Outcomes, temperatures: Sequence[float]) -> Floats:
    """(K, n): the largest probability of each output."""
    return np.stack(
        [
            np.exp(log_probabilities(logits, temperature).max(1))
            for logits, temperature in zip(outcomes.logits, temperatures, strict=True)
        ]
    )


def costs(outcomes: Outcomes, thresholds: Sequence[float | None]) -> list[float]:
    """K numbers: multiply-accumulates of an image that each output answers; of an exit that is not used, no matter."""
    found, asked = [], 0
    for trunk, exit_, threshold in zip(outcomes.trunk_macs, (*outcomes.exit_macs, 0), (*thresholds, None), strict=True):
        asked += 0 if threshold is None else exit_
        found.append(float(trunk + asked))
    return found


def choices(certain: Floats, thresholds: Sequence[float | None]) -> NDArray[np.int64]:
    """(n,): which output answers, from 0; `certain` is (K, n)."""
    limits = np.array([NEVER if threshold is None else threshold for threshold in thresholds] + [-NEVER])
    found: NDArray[np.int64] = (certain >= limits[:, None]).argmax(0)
    return found


def simulate(outcomes: Outcomes, policy: Policy) -> Simulated:
    """What the policy does to these images. Raises: ConfigError where it is of another number of outputs."""
    if len(policy.temperatures) != outcomes.num_outputs:
        raise ConfigError(
            f"the policy is of {len(policy.temperatures)} outputs, the network has {outcomes.num_outputs}"
        )
    return _simulated(outcomes, confidences(outcomes, policy.temperatures), policy.thresholds)


def _simulated(outcomes: Outcomes, certain: Floats, thresholds: Sequence[float | None]) -> Simulated:
    chosen = choices(certain, thresholds)
    left = np.bincount(chosen, minlength=outcomes.num_outputs)
    count = len(chosen)
    return Simulated(
        count=count,
        right=int(outcomes.right[chosen, np.arange(count)].sum()),
        left=tuple(left.tolist()),
        macs=float(left @ np.array(costs(outcomes, thresholds)) / count),
    )


def curve(
    outcomes: Outcomes, thresholds: Sequence[float], temperatures: Sequence[float] | None = None
) -> list[Simulated]:
    """What one common threshold does, for each of `thresholds`."""
    given = tuple(temperatures or (1.0,) * outcomes.num_outputs)
    certain = confidences(outcomes, given)
    return [
        _simulated(outcomes, certain, uniform(outcomes.num_outputs, value, given).thresholds) for value in thresholds
    ]


def fit_temperatures(outcomes: Outcomes) -> tuple[float, ...]:
    """K: of each output by itself."""
    return tuple(fit_temperature(logits, outcomes.labels) for logits in outcomes.logits)


# -- choosing ---------------------------------------------------------------------------------------------------------


def choose(outcomes: Outcomes, *, max_loss: float | None = None, max_macs: float | None = None) -> Policy:
    """Thresholds for a target, one for each exit, and which exits are worth having.

    Args:
        outcomes: of held-out images.
        max_loss: percentage points of accuracy below that of the final output, >= 0: the cheapest policy whose loss on
            these images, and one standard error of it on top, is not more. What is chosen among many is never as good
            as it looks, and the error keeps that from breaking the target.
        max_macs: mean multiply-accumulates, > 0: the most accurate policy that is not above it.
    Returns: the policy; with max_loss, in the worst case that of the plain network alone.
    Raises: ConfigError where not exactly one of the two is given, where it is out of range, and where no exit is as
        cheap as max_macs.
    """
    if (max_loss is None) == (max_macs is None):
        raise ConfigError("give a loss of accuracy or a cost as the target, and not both")
    if max_loss is not None and not max_loss >= 0:
        raise ConfigError(f"the loss of accuracy is {max_loss!r}; take percentage points from 0 on")
    temperatures = fit_temperatures(outcomes)
    certain = confidences(outcomes, temperatures)
    found = list(_frontier(outcomes, certain))
    if max_loss is not None:
        fitting = [each for each in found if _loss(outcomes, certain, each) <= max_loss]
        best = min(fitting, key=lambda each: _simulated(outcomes, certain, each).macs)
    else:
        assert max_macs is not None
        cheap = [each for each in found if _simulated(outcomes, certain, each).macs <= max_macs]
        if not cheap:
            least = min(_simulated(outcomes, certain, each).macs for each in found)
            raise ConfigError(
                f"a mean of {max_macs:,.0f} multiply-accumulates is out of reach: the first exit alone takes "
                f"{least:,.0f}; take that or more"
            )
        best = max(cheap, key=lambda each: _simulated(outcomes, certain, each).right)
    return Policy(temperatures=temperatures, thresholds=best)


def _loss(outcomes: Outcomes, certain: Floats, thresholds: Sequence[float | None]) -> float:
    """Percentage points that are lost, and one standard error."""
    chosen = choices(certain, thresholds)
    right = outcomes.right
    lost = right[-1].astype(float) - right[chosen, np.arange(len(chosen))]
    return float(100 * (lost.mean() + lost.std() / math.sqrt(len(lost))))


def _frontier(outcomes: Outcomes, certain: Floats) -> Iterator[tuple[float | None, ...]]:
    """Policies worth looking at: no exit at all, and for each price of an error what costs least in sum."""
    number = outcomes.num_outputs - 1
    yield (None,) * number
    whole = outcomes.trunk_macs[-1]
    tried = [
        sorted({float(value) for value in np.quantile(certain[k], np.linspace(0, 1, QUANTILES))}) for k in range(number)
    ]
    current: tuple[float | None, ...] = (None,) * number
    for price in whole * np.geomspace(0.1, 1000, PRICES)[::-1]:
        current = _descend(outcomes, certain, current, tried, float(price))
        yield current
    # The cheapest of all, whatever it says.
    for k in range(number):
        yield _with((None,) * number, k, 0.0)


def _with(thresholds: tuple[float | None, ...], k: int, value: float | None) -> tuple[float | None, ...]:
    return (*thresholds[:k], value, *thresholds[k + 1 :])


def _descend(
    outcomes: Outcomes,
    certain: Floats,
    start: tuple[float | None, ...],
    tried: Sequence[Sequence[float]],
    price: float,
) -> tuple[float | None, ...]:
    """One threshold at a time until none can be changed for the better."""

    def sum_of(thresholds: tuple[float | None, ...]) -> float:
        found = _simulated(outcomes, certain, thresholds)
        return found.macs + price * (1 - found.right / found.count)

    best, least = start, sum_of(start)
    changed = True
    while changed:
        changed = False
        for k, values in enumerate(tried):
            for value in (None, *values):
                other = _with(best, k, value)
                total = sum_of(other)
                if total < least:
                    best, least, changed = other, total, True
    return best
