"""Thresholds for a target: how much accuracy may be lost, or how much an answer may cost.

Chosen on images that nothing else is told of: what is chosen among many never is as good as it looks on what it was
chosen by.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from . import Floats, Integers, Outcomes
from .policy import NEVER, Policy, Thresholds, choices, confidences, costs, fit_temperatures, paired_error

PRICES = 40  # exchange rates between an error and its cost that are tried
STEPS = 512  # thresholds of one exit that are kept for the choice, at most
TIED = 1e-7  # confidences as near as this are one: float32, in which others may ask, does not tell them apart
SURE = 1 - 1e-6  # and no threshold is above this


def choose(outcomes: Outcomes, *, max_loss: float | None = None, max_macs: float | None = None) -> Policy:
    """Thresholds for a target, one for each exit, and which exits are worth having.

    Args:
        outcomes: of held-out images.
        max_loss: see Frontier.cheapest.
        max_macs: see Frontier.most_accurate.
    Raises: ConfigError where not exactly one of the two is given, and as these do.
    """
    if max_loss is not None and max_macs is None:
        return Frontier(outcomes).cheapest(max_loss)
    if max_macs is not None and max_loss is None:
        return Frontier(outcomes).most_accurate(max_macs)
    raise ConfigError("give a loss of accuracy or a cost as the target, and not both")


class Frontier:
    """Policies that are worth choosing from, and what each does to held-out images.

    For many prices of an error, thresholds that cost least in sum, each moved over all its values until none can be
    changed for the better; and from each of these, one threshold alone over all its values. What there is does not
    depend on the target, so a looser one never costs more.

    Args:
        outcomes: of held-out images.
        temperatures: of each output; None fits them on the same images.
    """

    def __init__(self, outcomes: Outcomes, temperatures: Sequence[float] | None = None) -> None:
        self.temperatures = tuple(temperatures or fit_temperatures(outcomes))
        images = _Images(outcomes, confidences(outcomes, self.temperatures))
        self._outcomes, self._certain = outcomes, images.certain
        bases = images.best_by_price()
        moves = [images.moved(base, k).thinned() for base in bases for k in range(len(base))]
        self._policies = [*bases, *(each for move in moves for each in move.policies())]
        stays = [images.standing(base) for base in bases]
        self._macs, self._lost, self._discordant = (
            np.concatenate([np.array([stay[part] for stay in stays]), *(move[part] for move in moves)])
            for part in range(3)
        )

    def cheapest(self, max_loss: float) -> Policy:
        """The cheapest policy whose loss of accuracy on these images, and one standard error on top, is not more.

        The error keeps the choice, which is made by what looks good here, from breaking the target elsewhere.

        Args:
            max_loss: percentage points below the final output, >= 0.
        Returns: in the worst case the policy of the plain network, which loses nothing.
        Raises: ConfigError.
        """
        if not 0 <= max_loss < NEVER:
            raise ConfigError(f"the loss of accuracy is {max_loss!r}; take percentage points from 0 on")
        count = self._outcomes.labels.size
        points = 100 * self._lost / count + paired_error(count, self._lost, self._discordant)
        points[0] = 0.0  # no exit at all
        return self._best(points <= max_loss, self._macs, self._lost)

    def most_accurate(self, max_macs: float) -> Policy:
        """The most accurate policy that is not above a cost.

        Args:
            max_macs: mean multiply-accumulates of an image, > 0.
        Raises: ConfigError where no policy is as cheap.
        """
        if not 0 < max_macs < NEVER:
            raise ConfigError(f"the mean of multiply-accumulates is {max_macs!r}; take a number above 0")
        mean = self._macs / self._outcomes.labels.size
        if mean.min() > max_macs:
            raise ConfigError(
                f"a mean of {max_macs:,.0f} multiply-accumulates is out of reach: the least that an answer takes is "
                f"{math.ceil(mean.min()):,}, {100 * mean.min() / self._outcomes.trunk_macs[-1]:.1f} % of the plain "
                "network; take that or more"
            )
        return self._best(mean <= max_macs, self._lost, self._macs)

    def _best(self, fitting: NDArray[np.bool_], first: Floats, then: Floats) -> Policy:
        """The least of `first`, and among its equals of `then`; without exits that nobody leaves at."""
        places = np.flatnonzero(fitting)
        thresholds = self._policies[places[np.lexsort((then[places], first[places]))[0]]]
        left = np.bincount(choices(self._certain, thresholds), minlength=len(thresholds) + 1)
        return Policy(
            temperatures=self.temperatures,
            thresholds=tuple(value if count else None for value, count in zip(thresholds, left.tolist(), strict=False)),
        )


class _Move(NamedTuple):
    """One exit's threshold over all its values, the highest first.

    Attributes:
        macs: sums over the images.
        lost: images lost less images won, against the final output.
        discordant: images lost and images won.
        values: of the threshold.
        base: thresholds of all exits; that of exit k is to be replaced.
    """

    macs: Floats
    lost: Floats
    discordant: Floats
    values: Floats
    base: Thresholds
    k: int

    def thinned(self) -> "_Move":
        if len(self.values) <= STEPS:
            return self
        kept = np.linspace(0, len(self.values) - 1, STEPS).round().astype(int)
        return self._replace(
            macs=self.macs[kept], lost=self.lost[kept], discordant=self.discordant[kept], values=self.values[kept]
        )

    def policies(self) -> Iterator[Thresholds]:
        for value in self.values.tolist():
            yield _with(self.base, self.k, value)


class _Images:
    """Held-out images, made ready to be asked what thresholds do to them."""

    def __init__(self, outcomes: Outcomes, certain: Floats) -> None:
        self.outcomes, self.certain = outcomes, certain
        right = outcomes.right.astype(np.int64)
        self._loss = right[-1] - right  # (K, n): 1 where an image is lost by asking output k, -1 where it is won
        self._orders = [np.argsort(-each, kind="stable") for each in certain[:-1]]

    def standing(self, thresholds: Thresholds) -> tuple[float, float, float]:
        """macs, lost and discordant, as _Move has them, of one policy."""
        chosen = choices(self.certain, thresholds)
        lost = self._loss[chosen, np.arange(len(chosen))]
        macs = np.array(costs(self.outcomes, thresholds))[chosen].sum()
        return float(macs), float(lost.sum()), float(np.abs(lost).sum())

    def moved(self, thresholds: Thresholds, k: int) -> _Move:
        """What each threshold of exit k does while the others stay; all of them by running sums over the images that
        come to the exit, the most certain first.
        """
        without = _with(thresholds, k, None)
        chosen = choices(self.certain, without)
        prices = np.array(costs(self.outcomes, without))
        lost = self._loss[chosen, np.arange(len(chosen))]
        coming = self._orders[k][chosen[self._orders[k]] > k]
        certain = np.minimum(self.certain[k, coming], SURE)
        # After which of them the next is less certain, so that a threshold fits between.
        ends = np.flatnonzero(np.append(certain[:-1] - certain[1:] > TIED, True)) if len(coming) else coming
        leaving, staying = self._loss[k, coming], lost[coming]
        below = np.append(certain, 0.0)[ends + 1]
        return _Move(
            macs=prices[chosen].sum()
            + self.outcomes.exit_macs[k] * len(coming)
            + np.cumsum(prices[k] - prices[chosen[coming]])[ends],
            lost=lost.sum() + np.cumsum(leaving - staying)[ends].astype(float),
            discordant=np.abs(lost).sum() + np.cumsum(np.abs(leaving) - np.abs(staying))[ends].astype(float),
            # In the middle, so that rounding elsewhere sends nobody the other way; where all leave, nobody is asked.
            values=np.where(below > 0, (certain[ends] + below) / 2, 0.0),
            base=without,
            k=k,
        )

    def best_by_price(self) -> list[Thresholds]:
        """No exit at all first; then for each price of an error what costs least in sum, from either side."""
        number, whole = self.outcomes.num_outputs - 1, self.outcomes.trunk_macs[-1]
        nothing: Thresholds = (None,) * number
        found: dict[Thresholds, None] = {nothing: None}
        prices = whole * np.geomspace(0.1, 4.0 * self.certain.shape[1], PRICES)
        for way in (prices[::-1], prices):
            current = nothing
            for price in way.tolist():
                current = self._descend(current, price)
                found[current] = None
        return list(found)

    def _descend(self, start: Thresholds, price: float) -> Thresholds:
        """One threshold at a time until none can be changed for the better."""
        macs, lost, _ = self.standing(start)
        best, least = start, macs + price * lost
        changed = True
        while changed:
            changed = False
            for k in range(len(start)):
                without = _with(best, k, None)
                move = self.moved(best, k)
                macs, lost, _ = self.standing(without)
                totals = np.append(move.macs + price * move.lost, macs + price * lost)
                place = int(totals.argmin())
                # Less by more than the rounding of these sums.
                if totals[place] < least - 1e-9 * abs(least):
                    least, changed = float(totals[place]), True
                    best = without if place == len(move.values) else _with(best, k, float(move.values[place]))
        return best


def _with(thresholds: Thresholds, k: int, value: float | None) -> Thresholds:
    return (*thresholds[:k], value, *thresholds[k + 1 :])


def held_out(labels: Integers, share: float) -> NDArray[np.bool_]:
    """(n,): which images choose; of each class, in their order and evenly spread, `share` as far as numbers allow.

    Args:
        labels: (n,).
        share: above 0 and below 1; a half is that of outcomes.halves.
    Raises: ConfigError where it is out of range, or leaves nothing on one side.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of held-out images is {share!r}; take a number between 0 and 1, such as 0.5")
    steps = np.floor(np.arange(len(labels) + 1) * share)
    chosen = np.empty(len(labels), dtype=bool)
    chosen[np.argsort(labels, kind="stable")] = np.diff(steps) > 0
    if chosen.all() or not chosen.any():
        raise ConfigError(
            f"a share of {share:g} of {len(labels)} test images leaves none to choose on, or none to measure on; take "
            "another, or more test images"
        )
    return chosen
