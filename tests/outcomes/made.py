"""Outcomes that no network gave: deeper outputs are right more often, and all know which images are easy."""

import numpy as np

from metadistiller.outcomes import Outcomes


def made(
    count: int = 600,
    num_classes: int = 5,
    *,
    skill: tuple[float, ...] = (1.0, 2.0, 3.0, 3.5),
    exit_macs: tuple[int, ...] = (6, 5, 4),
    seed: int = 0,
) -> Outcomes:
    """Args: skill: of each output, in units of the noise."""
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(num_classes, size=count)
    shared, ease = drawn.normal(size=(count, num_classes)), drawn.exponential(1.0, size=count)
    logits = []
    for strength in skill:
        own = 0.7 * shared + 0.7 * drawn.normal(size=(count, num_classes))
        own[np.arange(count), labels] += strength * ease
        logits.append(1.5 * own)
    return Outcomes(
        logits=np.stack(logits).astype(np.float32),
        labels=labels,
        index=np.arange(count),
        total=count,
        trunk_macs=tuple(100 * k for k in range(1, len(skill) + 1)),
        exit_macs=exit_macs[: len(skill) - 1],
    )
