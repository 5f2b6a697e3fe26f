"""Laws of the choice of thresholds, and that nothing on a grid of all of them is better by much."""

import math
import time
from itertools import pairwise, product

import numpy as np
import pytest

from metadistiller.errors import ConfigError
from metadistiller.outcomes import Outcomes
from metadistiller.outcomes.calibration import log_probabilities
from metadistiller.outcomes.choosing import Frontier, choose
from metadistiller.outcomes.policy import Policy, loss, simulate

from .made import made

LOSSES = (0.0, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0, 200.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_target_holds_on_the_images_that_chose_with_one_error_to_spare(seed: int) -> None:
    frontier = Frontier(said := made(500, seed=seed))
    for allowed in LOSSES:
        policy = frontier.cheapest(allowed)
        if policy.thresholds != (None, None, None):
            found = loss(said, policy)
            assert found.points + found.error <= allowed + 1e-9
    for share in (0.3, 0.5, 0.8, 1.0, 3.0):
        assert simulate(said, frontier.most_accurate(400 * share)).macs <= 400 * share + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_a_looser_target_is_never_worse(seed: int) -> None:
    frontier = Frontier(said := made(500, seed=seed))
    costs = [simulate(said, frontier.cheapest(allowed)).macs for allowed in LOSSES]
    assert all(later <= earlier for earlier, later in pairwise(costs))
    right = [simulate(said, frontier.most_accurate(macs)).right for macs in range(110, 500, 20)]
    assert all(later >= earlier for earlier, later in pairwise(right))
    assert costs[-1] < costs[0]


def test_without_a_limit_the_first_exit_answers_everything() -> None:
    policy = choose(made(), max_loss=1000)
    assert policy.thresholds == (0.0, None, None)
    assert simulate(made(), policy).macs == 106


def test_what_cannot_be_shown_is_not_claimed() -> None:
    """Exits that lose one of two hundred are not within a hundredth of a point."""
    assert choose(made(200), max_loss=0.01).thresholds == (None, None, None)


def test_an_exit_that_never_helps_is_switched_off() -> None:
    """The second exit answers at random and is as sure as any."""
    said = made()
    drawn = np.random.default_rng(5).normal(size=said.logits[1].shape)
    logits = said.logits.copy()
    logits[1] = 20 * drawn
    useless = Outcomes(**{**vars_of(said), "logits": logits})
    for target in ({"max_loss": 1.0}, {"max_loss": 3.0}, {"max_macs": 300.0}):
        thresholds = choose(useless, **target).thresholds
        assert thresholds[1] is None
        assert thresholds[0] is not None or thresholds[2] is not None


def test_an_exit_that_costs_more_than_it_saves_is_switched_off() -> None:
    assert choose(made(exit_macs=(6, 5, 150)), max_loss=2.0).thresholds[2] is None


@pytest.mark.parametrize("seed", range(3))
def test_nothing_on_a_grid_is_better_by_much(seed: int) -> None:
    """Ten quantiles of each of three exits, and no exit: 11^3 policies, on the images that chose."""
    frontier = Frontier(said := made(400, seed=seed))
    temperatures = frontier.temperatures
    levels = [
        [None, *np.quantile(np.exp(_log(said, temperatures, k)).max(1), np.linspace(0, 1, 10)).tolist()]
        for k in range(3)
    ]
    every = [Policy(temperatures=temperatures, thresholds=thresholds) for thresholds in product(*levels)]
    known = [simulate(said, policy) for policy in every]
    for allowed in (5.0, 10.0, 20.0):
        ours = simulate(said, frontier.cheapest(allowed))
        assert ours.macs <= 1.02 * min((found.macs for found in known if found.right >= ours.right), default=400)
    for macs in (150, 200, 250, 300):
        ours = simulate(said, frontier.most_accurate(macs))
        assert ours.right >= max(found.right for found in known if found.macs <= macs) - 0.02 * 400


def test_the_target_holds_on_other_images_more_often_than_not() -> None:
    """Of 20 choices by 300 images at most a third break it on 20,000 others: one error is five of six."""
    whole, drawn = made(20_000, 10, skill=(1.0, 2.0, 3.0, 3.3), seed=9), np.random.default_rng(0)
    broken = saved = 0
    for _ in range(20):
        choosing = np.isin(np.arange(20_000), drawn.choice(20_000, 300, replace=False))
        policy, rest = choose(whole.of(choosing), max_loss=1.5), whole.of(~choosing)
        broken += loss(rest, policy).points > 1.5
        saved += simulate(rest, policy).macs < 0.95 * 400
    assert broken <= 7
    assert saved >= 10


def _log(said: Outcomes, temperatures: tuple[float, ...], k: int) -> np.ndarray:
    return log_probabilities(said.logits[k], temperatures[k])


def test_thresholds_lie_where_rounding_moves_nobody() -> None:
    said = made(500)
    policy = choose(said, max_loss=2.0)
    low = simulate(Outcomes(**{**vars_of(said), "logits": said.logits * (1 - 1e-7)}), policy)
    assert low.left == simulate(said, policy).left
    assert all(value is None or value <= 1 - 5e-7 for value in policy.thresholds)


def vars_of(said: Outcomes) -> dict[str, object]:
    return {name: getattr(said, name) for name in said.__dataclass_fields__}


@pytest.mark.parametrize("skill", [(1.0, 3.0), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)])
def test_any_number_of_outputs(skill: tuple[float, ...]) -> None:
    said = made(300, skill=skill, exit_macs=(3,) * 5)
    policy = choose(said, max_loss=10.0)
    assert len(policy.thresholds) == len(skill) - 1
    assert simulate(said, policy).macs < said.trunk_macs[-1]


def test_few_images_and_answers_that_are_all_right() -> None:
    said = made(6)
    logits = np.zeros_like(said.logits)
    logits[:, np.arange(6), said.labels] = 30
    sure = Outcomes(**{**vars_of(said), "logits": logits})  # type: ignore[arg-type]
    assert choose(sure, max_loss=0.5).thresholds == (None, None, None)
    assert choose(sure, max_loss=50).thresholds == (0.0, None, None)
    assert simulate(sure, choose(sure, max_macs=106)).right == 6


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "not both"),
        ({"max_loss": 1.0, "max_macs": 5.0}, "not both"),
        ({"max_loss": -0.1}, r"loss of accuracy is -0\.1"),
        ({"max_loss": math.nan}, "loss of accuracy is nan"),
        ({"max_macs": 0.0}, r"is 0\.0; take a number above 0"),
        ({"max_macs": 105.0}, "out of reach: the least that an answer takes is 106, 26.5 %"),
    ],
)
def test_targets_that_cannot_be_meant_or_reached(target: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(made(50), **target)


def test_ten_thousand_images_of_a_hundred_classes_take_seconds() -> None:
    said = made(10_000, 100)
    began = time.process_time()
    choose(said, max_loss=0.5)
    assert time.process_time() - began < 10
