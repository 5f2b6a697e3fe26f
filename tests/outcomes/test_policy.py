"""What thresholds do to known answers, against one image at a time; and what is lost, against a table by hand."""

import math

import numpy as np
import pytest

from metadistiller.errors import ConfigError
from metadistiller.outcomes import Outcomes
from metadistiller.outcomes.calibration import log_probabilities
from metadistiller.outcomes.policy import Loss, Policy, curve, loss, simulate, uniform

from .made import made

TEMPERATURES = (0.8, 1.3, 2.0, 1.0)


def image_by_image(said: Outcomes, policy: Policy) -> tuple[int, list[int], float]:
    """Right answers, answers of each output, mean MACs."""
    right, left, macs = 0, [0] * said.num_outputs, 0.0
    for image in range(len(said.labels)):
        asked = 0
        for k in range(said.num_outputs):
            threshold = policy.thresholds[k] if k < said.num_outputs - 1 else -math.inf
            if threshold is None:
                continue
            asked += said.exit_macs[k] if k < said.num_outputs - 1 else 0
            if np.exp(log_probabilities(said.logits[k, image], policy.temperatures[k])).max() >= threshold:
                right += int(said.logits[k, image].argmax() == said.labels[image])
                left[k] += 1
                macs += said.trunk_macs[k] + asked
                break
    return right, left, macs / len(said.labels)


@pytest.mark.parametrize(
    "thresholds",
    [(0.9, 0.8, 0.7), (None, 0.6, None), (0.99, None, 0.3), (None, None, None), (0.0, 0.5, 0.5), (1.0,) * 3],
)
def test_a_policy_does_what_a_walk_through_the_exits_does(thresholds: tuple[float | None, ...]) -> None:
    said, policy = made(200), Policy(temperatures=TEMPERATURES, thresholds=thresholds)
    right, left, macs = image_by_image(said, policy)
    found = simulate(said, policy)
    assert (found.right, list(found.left), found.count) == (right, left, 200)
    assert found.macs == pytest.approx(macs, rel=1e-12)


def test_without_exits_it_is_the_plain_network() -> None:
    said = made()
    found = simulate(said, Policy(temperatures=TEMPERATURES, thresholds=(None, None, None)))
    assert (found.right, found.macs) == (said.right[-1].sum(), 400)


def test_a_curve_is_a_policy_for_each_threshold() -> None:
    said = made(100)
    assert curve(said, [0.2, 0.9], TEMPERATURES) == [simulate(said, uniform(4, t, TEMPERATURES)) for t in (0.2, 0.9)]


@pytest.mark.parametrize("threshold", [-0.1, 1.5, math.nan])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold is"):
        uniform(3, threshold)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_divides_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature is"):
        Policy(temperatures=(temperature, 1.0), thresholds=(0.5,))


def test_a_policy_of_other_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="of 2 outputs, the network has 4"):
        simulate(made(10), uniform(2, 0.5))
    with pytest.raises(ConfigError, match="do not go with"):
        Policy(temperatures=(1.0,), thresholds=(0.5,))


def test_what_is_lost_is_counted_pair_by_pair() -> None:
    said, policy = made(300), uniform(4, 0.6)
    found = loss(said, policy)
    assert found.points == pytest.approx(100 * said.right[-1].mean() - simulate(said, policy).accuracy)
    assert found.lost + found.won <= 300
    assert loss(said, uniform(4, 1.0)).points == 0


def test_the_interval_by_hand_and_none_lost_of_few_is_no_proof() -> None:
    """Lost 12, won 2 of 98: (12.5 - 2.5) / 100, variance (15 - 10^2 / 100) / 100^2."""
    low, high = Loss(98, 12, 2).interval
    half = 1.96 * math.sqrt(15 - 1) / 100
    assert (low, high) == pytest.approx((100 * (0.1 - half), 100 * (0.1 + half)))
    assert Loss(50, 0, 0).error > 1 > 0.1 > Loss(5000, 0, 0).error > 0


def test_the_interval_covers_what_it_says() -> None:
    """Of 2,000 draws with 3 % lost and 1 % won, about 95 % have the 2 points inside."""
    drawn = np.random.default_rng(0).multinomial(400, (0.03, 0.01, 0.96), size=2000)
    inside = [low <= 2 <= high for low, high in (Loss(400, int(a), int(b)).interval for a, b, _ in drawn)]
    assert 0.93 <= np.mean(inside) <= 0.98
