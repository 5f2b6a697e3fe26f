"""Whether a probability is what it says: of images answered with 0.8, are four in five right?

Temperature scaling divides all logits by one number; answers stay as they are. It is fitted on images that it is not
judged by.

Source: Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import Floats, Integers, halves

NUM_BINS = 15
LOWEST, HIGHEST = 0.05, 20.0  # between which temperatures are looked for


def log_probabilities(logits: Floats, temperature: float | Floats = 1.0) -> Floats:
    """log softmax(logits / temperature) over the last axis, float64.

    Args:
        logits: (..., C).
        temperature: above 0; a number, or an array that broadcasts against logits.
    """
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(-1, keepdims=True)
    shares: Floats = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return shares


def nll(log_shares: Floats, labels: Integers) -> float:
    """Mean negative log-likelihood of the labels in nats; log_shares (n, C), labels (n,)."""
    return 0.0 - float(np.take_along_axis(log_shares, labels[:, None], 1).mean())


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature with the least negative log-likelihood, from 0.05 to 20.

    Args:
        logits: (n, C), n >= 1.
        labels: (n,).
    """
    # In the inverse temperature b the likelihood is convex: its slope E_p[z] - z_y rises, and has one zero at most.
    values = logits.astype(np.float64) - logits.max(1, keepdims=True)
    of_labels = np.take_along_axis(values, labels[:, None], 1).mean()
    low, high = 1 / HIGHEST, 1 / LOWEST
    inverse = 1.0
    for _ in range(60):
        shares = np.exp(log_probabilities(values, 1 / inverse))
        means = (shares * values).sum(1)
        slope = means.mean() - of_labels
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        curvature = ((shares * values**2).sum(1) - means**2).mean()
        newton = inverse - slope / curvature if curvature > 0 else math.inf
        # Newton's step as long as it stays where the zero must be, else half of that place.
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return float(min(HIGHEST, max(LOWEST, 1 / inverse)))


def two_fold(logits: Floats, labels: Integers) -> tuple[Floats, tuple[float, float]]:
    """Scaled log-probabilities of all images, each by the temperature that the half without it gives.

    Args:
        logits: (n, C).
        labels: (n,).
    Returns: (n, C), and the temperatures that the first and the second half were given. One image alone has nothing to
        be fitted on, and keeps temperature 1.
    """
    second = halves(labels)
    if second.all() or not second.any():
        return log_probabilities(logits), (1.0, 1.0)
    of_first, of_second = (fit_temperature(logits[part], labels[part]) for part in (~second, second))
    return log_probabilities(logits, np.where(second, of_first, of_second)[:, None]), (of_second, of_first)


@dataclass(frozen=True)
class Reliability:
    """Images by their confidence, in bins of equal width.

    Attributes:
        counts: images in each bin.
        confidences, accuracies: means, 0 to 1; of an empty bin 0.
        ece: expected calibration error, 0 to 1: the mean gap between the two, weighed by images.
    """

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]
    ece: float


def reliability(confidences: Floats, right: NDArray[np.bool_], *, num_bins: int = NUM_BINS) -> Reliability:
    """How far confidence and accuracy are apart.

    Args:
        confidences: (n,) probabilities of the answers, 0 to 1.
        right: (n,) whether the answers are.
        num_bins: >= 1.
    """
    # A bin holds its upper end: 1 is in the last one.
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    safe = np.maximum(counts, 1)
    means = np.bincount(bins, weights=confidences, minlength=num_bins) / safe
    shares = np.bincount(bins, weights=right, minlength=num_bins) / safe
    return Reliability(
        counts=tuple(counts.tolist()),
        confidences=tuple(means.tolist()),
        accuracies=tuple(shares.tolist()),
        ece=float((counts * np.abs(means - shares)).sum() / len(confidences)),
    )
