"""Thresholds for a target: how much accuracy may be lost, or how much an answer may cost.

What is chosen among many never is as good as it looks on what it was chosen by. So images that chose are not measured
on, and a loss is also told, before the choice, by cross-validation with one standard error on top (the rule of Breiman
et al. 1984, "Classification and regression trees", sec. 3.4.3).
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from . import Floats, Integers, Outcomes
from .policy import NEVER, Policy, Thresholds, choices, confidences, costs, fit_temperatures, paired_error

PRICES = 24  # exchange rates between an error and its cost that are tried
STEPS = 12  # from the policy of one to that of the next
CERTAIN_STEPS = 20  # from the dearest error on
PARTS = 5  # of the images, for what a choice loses on others
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
    """Policies from the plain network to the first exit alone, and what each does to held-out images.

    For each price of an error the thresholds that cost least in sum, each moved over its values until none can be
    changed for the better; and steps between neighbours. All images choose thresholds for a price. What such a choice
    loses elsewhere is told by parts of the images: each part is answered with what the others choose for the price.

    Args:
        outcomes: of held-out images.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self.temperatures = fit_temperatures(outcomes)
        images = _Images(outcomes, confidences(outcomes, self.temperatures))
        self._outcomes, self._certain = outcomes, images.certain
        count = outcomes.labels.size
        prices = outcomes.trunk_macs[-1] * np.append(0.0, np.geomspace(0.1, 4.0 * count, PRICES))
        self._policies = [(None,) * (outcomes.num_outputs - 1), *images.for_prices(prices)]
        self._seen = np.array([images.standing(each) for each in self._policies])
        # Of the first, which is the plain network, there is nothing to tell.
        self._elsewhere = np.zeros_like(self._seen)
        parts = _parts(outcomes.labels)
        for part in parts:
            choosing, told = images.of(~part), images.of(part)
            self._elsewhere[1:] += [told.standing(each) for each in choosing.for_prices(prices)]
        if not parts:
            self._elsewhere = self._seen

    def cheapest(self, max_loss: float) -> Policy:
        """The cheapest policy whose loss of accuracy on these images, and one standard error on top, is not more.

        Both by the images that chose and by what the parts tell of such a choice.

        Args:
            max_loss: percentage points below the final output, >= 0.
        Returns: in the worst case the policy of the plain network, which loses nothing.
        Raises: ConfigError.
        """
        if not 0 <= max_loss < NEVER:
            raise ConfigError(f"the loss of accuracy is {max_loss!r}; take percentage points from 0 on")
        count = self._outcomes.labels.size
        points = np.zeros(len(self._policies))
        for _, lost, discordant in (self._seen.T, self._elsewhere.T):
            points = np.maximum(points, 100 * lost / count + paired_error(count, lost, discordant))
        points[0] = 0.0
        return self._best(points <= max_loss, self._seen[:, 0], self._seen[:, 1])

    def most_accurate(self, max_macs: float) -> Policy:
        """The most accurate policy that is not above a cost.

        Args:
            max_macs: mean multiply-accumulates of an image, > 0.
        Raises: ConfigError where no policy is as cheap.
        """
        if not 0 < max_macs < NEVER:
            raise ConfigError(f"the mean of multiply-accumulates is {max_macs!r}; take a number above 0")
        mean = self._seen[:, 0] / self._outcomes.labels.size
        if mean.min() > max_macs:
            raise ConfigError(
                f"a mean of {max_macs:,.0f} multiply-accumulates is out of reach: the least that an answer takes is "
                f"{math.ceil(mean.min()):,}, {100 * mean.min() / self._outcomes.trunk_macs[-1]:.1f} % of the plain "
                "network; take that or more"
            )
        return self._best(mean <= max_macs, self._seen[:, 1], self._seen[:, 0])

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
        values: of the threshold.
    """

    macs: Floats
    lost: Floats
    values: Floats

    def thinned(self, most: int) -> "_Move":
        if len(self.values) <= most:
            return self
        kept = np.linspace(0, len(self.values) - 1, most).round().astype(int)
        return self._replace(macs=self.macs[kept], lost=self.lost[kept], values=self.values[kept])


class _Images:
    """Held-out images, made ready to be asked what thresholds do to them."""

    def __init__(self, outcomes: Outcomes, certain: Floats) -> None:
        self.outcomes, self.certain = outcomes, certain
        right = outcomes.right.astype(np.int64)
        self._loss = right[-1] - right  # (K, n): 1 where an image is lost by asking output k, -1 where it is won
        # Fewer values for fewer images: the finer the choice, the more of it is chance.
        self._steps = int(np.clip(math.sqrt(certain.shape[1]), 8, 64))
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
        below = np.append(certain, 0.0)[ends + 1]
        return _Move(
            macs=prices[chosen].sum()
            + self.outcomes.exit_macs[k] * len(coming)
            + np.cumsum(prices[k] - prices[chosen[coming]])[ends],
            lost=lost.sum() + np.cumsum(self._loss[k, coming] - lost[coming])[ends].astype(float),
            # In the middle, so that rounding elsewhere sends nobody the other way; where all leave, nobody is asked.
            values=np.where(below > 0, (certain[ends] + below) / 2, 0.0),
        ).thinned(self._steps)

    def of(self, chosen: NDArray[np.bool_]) -> "_Images":
        """Some of them alone; `chosen` is (n,)."""
        return _Images(self.outcomes.of(chosen), self.certain[:, chosen])

    def for_prices(self, prices: Floats) -> list[Thresholds]:
        """What costs least in sum for each price of an error, the lowest first, with steps in between."""
        current: Thresholds = (None,) * (self.outcomes.num_outputs - 1)
        # From either side, as neither finds the best always: the last is no exit at all, the first the first exit.
        falling = []
        for price in prices[::-1].tolist():
            current, total = self._descend(current, price)
            falling.append((total, current))
        found = []
        for price, other in zip(prices.tolist(), reversed(falling), strict=True):
            current, total = self._descend(current, price)
            if other[0] < total:
                current = other[1]
            found.append(current)
        # However dear an error is, thresholds stay just above the surest image that they would lose. Others may be as
        # sure, so on from there to certainty.
        last = found[-1]
        certain = tuple(None if threshold is None else SURE for threshold in last)
        steps = [each for pair in pairwise(found) for each in _between(*pair, STEPS)]
        return [*steps, *_between(last, certain, CERTAIN_STEPS), certain]

    def _descend(self, start: Thresholds, price: float) -> tuple[Thresholds, float]:
        """One threshold at a time until none can be changed for the better; and the sum that is left."""
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
        return best, least


def _with(thresholds: Thresholds, k: int, value: float | None) -> Thresholds:
    return (*thresholds[:k], value, *thresholds[k + 1 :])


def _between(one: Thresholds, other: Thresholds, steps: int) -> Iterator[Thresholds]:
    """`steps` policies from `one` on, without `other`, by even factors of the doubt that is let through.

    An exit that is not there asks for certainty.
    """
    yield one
    for step in np.linspace(0, 1, steps, endpoint=False)[1:].tolist():
        yield tuple(
            a if a == b else 1 - _doubt(a) ** (1 - step) * _doubt(b) ** step for a, b in zip(one, other, strict=True)
        )


def _doubt(threshold: float | None) -> float:
    return 1 - SURE if threshold is None else max(1 - threshold, 1 - SURE)


def _parts(labels: Integers) -> list[NDArray[np.bool_]]:
    """PARTS masks, each image in one of them, each class spread over all; none where there is one image."""
    number = min(PARTS, len(labels))
    place = np.empty(len(labels), dtype=np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % number
    return [place == part for part in range(number)] if number > 1 else []


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
