"""Which exit answers which image: the first whose confidence reaches its threshold; what is left, the final output.

Confidence is the largest probability of softmax(S_k / T_k).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from . import Floats, Outcomes
from .calibration import fit_temperature, log_probabilities

NEVER = math.inf

Thresholds: TypeAlias = tuple[float | None, ...]


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

    def check_outputs(self, num_outputs: int) -> None:
        """Raises: ConfigError where it is of another number of outputs."""
        if len(self.temperatures) != num_outputs:
            raise ConfigError(f"the policy is of {len(self.temperatures)} outputs, the network has {num_outputs}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as files have them."""
        return {"temperatures": list(self.temperatures), "thresholds": list(self.thresholds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Policy":
        """What as_dict gave, from a file of anybody's.

        Raises: ConfigError for a number that is out of range; KeyError, TypeError, ValueError for what is none.
        """
        return cls(
            temperatures=tuple(map(number, values["temperatures"])),
            thresholds=tuple(None if value is None else number(value) for value in values["thresholds"]),
        )


def number(value: Any) -> float:
    """A finite number from JSON. Raises: ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} where a number should be")
    return float(value)


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
    policy.check_outputs(outcomes.num_outputs)
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


@dataclass(frozen=True)
class Loss:
    """Accuracy that is given up against the final output, on the same images.

    The error and the interval are those of paired shares, with half an image more in each of the four cells: none lost
    of 50 is no proof that none will be.
    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".

    Attributes:
        count: images.
        lost: how many the final output alone has right.
        won: how many it alone has wrong.
    """

    count: int
    lost: int
    won: int

    @property
    def points(self) -> float:
        """Percentage points; below 0 where more is won than lost."""
        return 100 * (self.lost - self.won) / self.count

    @property
    def error(self) -> float:
        """One standard error of `points`."""
        return float(paired_error(self.count, self.lost - self.won, self.lost + self.won))

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, in percentage points."""
        middle, half = 100 * (self.lost - self.won) / (self.count + 2), 1.96 * self.error
        return middle - half, middle + half


def paired_error(count: int, difference: Any, discordant: Any) -> Any:
    """Numbers or arrays: lost - won, and lost + won."""
    return 100 * np.sqrt(discordant + 1 - difference**2 / (count + 2)) / (count + 2)


def loss(outcomes: Outcomes, policy: Policy) -> Loss:
    """What the policy gives up on these images."""
    chosen = choices(confidences(outcomes, policy.temperatures), policy.thresholds)
    final, ours = outcomes.right[-1], outcomes.right[chosen, np.arange(len(chosen))]
    return Loss(len(chosen), int((final & ~ours).sum()), int((ours & ~final).sum()))


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
