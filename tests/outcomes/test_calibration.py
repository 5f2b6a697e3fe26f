"""Temperatures against a search by brute force, and the calibration error against what can be told by hand."""

import numpy as np
import pytest

from metadistiller.outcomes import halves
from metadistiller.outcomes.calibration import (
    HIGHEST,
    LOWEST,
    fit_temperature,
    log_probabilities,
    nll,
    reliability,
    two_fold,
)

from .made import made


@pytest.mark.parametrize("output", range(4))
def test_no_temperature_of_a_fine_grid_is_likelier(output: int) -> None:
    said = made(400)
    logits = said.logits[output]
    grid = np.geomspace(LOWEST, HIGHEST, 3000)
    losses = [nll(log_probabilities(logits, temperature), said.labels) for temperature in grid]
    found = fit_temperature(logits, said.labels)
    assert nll(log_probabilities(logits, found), said.labels) <= min(losses) + 1e-12
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=3e-3)


@pytest.mark.parametrize("factor", [0.3, 2.0, 7.5])
def test_logits_times_c_have_a_temperature_times_c(factor: float) -> None:
    said = made(400)
    logits = said.logits[-1].astype(np.float64)
    assert fit_temperature(factor * logits, said.labels) == pytest.approx(
        factor * fit_temperature(logits, said.labels), rel=1e-6
    )


def test_a_temperature_stays_within_its_bounds() -> None:
    logits = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(logits, np.array([0, 1, 2])) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(HIGHEST, rel=0.01)


def test_probabilities_add_up_and_survive_large_logits() -> None:
    shares = np.exp(log_probabilities(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=np.float32), 0.1))
    assert shares.sum(1) == pytest.approx(1)
    assert shares[1] == pytest.approx(1 / 3)


def test_each_half_is_scaled_by_a_temperature_that_never_saw_it() -> None:
    """Whatever the labels of a half are, its own scaled values stay."""
    said = made(300)
    second = halves(said.labels)
    scaled, (first_given, second_given) = two_fold(said.logits[0], said.labels)
    assert first_given == fit_temperature(said.logits[0][second], said.labels[second])
    assert second_given == fit_temperature(said.logits[0][~second], said.labels[~second])
    assert np.array_equal(scaled[second], log_probabilities(said.logits[0][second], second_given))
    assert np.array_equal(scaled[~second], log_probabilities(said.logits[0][~second], first_given))
    # Labels of the second half among themselves in another order: the same division, and only the first half changes.
    changed = said.labels.copy()
    swapped = np.flatnonzero(second)
    changed[swapped] = np.roll(changed[swapped], 1)
    one = fit_temperature(said.logits[0][~second], changed[~second])
    assert one == second_given


def test_one_image_alone_keeps_temperature_one() -> None:
    scaled, given = two_fold(np.array([[1.0, 2.0]]), np.array([0]))
    assert given == (1.0, 1.0)
    assert np.array_equal(scaled, log_probabilities(np.array([[1.0, 2.0]])))


def test_the_error_of_five_images_by_hand() -> None:
    """Two bins: 0.2 and 0.4, one right; 0.6, 0.8 and 1, two right."""
    found = reliability(np.array([0.2, 0.4, 0.6, 0.8, 1.0]), np.array([True, False, True, True, False]), num_bins=2)
    assert found.counts == (2, 3)
    assert found.confidences == pytest.approx((0.3, 0.8))
    assert found.accuracies == pytest.approx((0.5, 2 / 3))
    assert found.ece == pytest.approx(0.4 * 0.2 + 0.6 * (0.8 - 2 / 3))


def test_a_bin_holds_its_upper_end_and_empty_bins_are_nothing() -> None:
    found = reliability(np.array([0.5, 0.0]), np.array([True, False]), num_bins=4)
    assert found.counts == (1, 1, 0, 0)
    assert (found.confidences[2], found.accuracies[3]) == (0.0, 0.0)


def test_perfect_calibration_has_no_error() -> None:
    """Of a hundred images of confidence k/10, 10 k are right."""
    confidences = np.repeat(np.arange(1, 11) / 10, 100)
    right = np.concatenate([np.arange(100) < 10 * k for k in range(1, 11)])
    assert reliability(confidences, right).ece == pytest.approx(0, abs=1e-12)
    assert reliability(confidences, ~right).ece > 0.3


def test_scaling_brings_drawn_answers_near_to_it() -> None:
    """Labels drawn from softmax(z): of 3 z the temperature is 3."""
    drawn = np.random.default_rng(1)
    logits = 2 * drawn.normal(size=(20_000, 4))
    shares = np.exp(log_probabilities(logits))
    labels = (drawn.random(len(logits))[:, None] > shares.cumsum(1)).sum(1).clip(max=3)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)
    right = logits.argmax(1) == labels
    assert reliability(shares.max(1), right).ece < 0.01
    assert reliability(np.exp(log_probabilities(3 * logits)).max(1), right).ece > 0.05
