"""How long networks take for the same images, in one process, so that their ratios hold on a busy machine too."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..outcomes.chosen import Latency

BATCHES = (1, 32, 256)
SAMPLE = max(BATCHES)  # images
SINGLE = 64  # of them one by one
FEWEST, MOST = 3, 15  # repeats
SECONDS = 15.0  # of a batch size, after which no more repeats begin


@torch.no_grad()
def latencies(networks: Mapping[str, Callable[[Tensor], object]], images: Tensor) -> dict[str, tuple[Latency, ...]]:
    """Of each network, one for each of BATCHES.

    A repeat puts the same images through every network, one network after the other: one by one the first 64, 32 at a
    time the first 128, and all at once. The time of a repeat, not of a batch, is what the median is of: of images that
    leave early and late it would be one or the other.

    Args:
        networks: the first is what the others are compared with.
        images: (256, 3, H, W), normalised, where the networks are; each first part of them stands for all.
    """
    found: dict[str, list[Latency]] = {name: [] for name in networks}
    for batch in BATCHES:
        batches = torch.split(images[: SINGLE if batch == 1 else max(batch, SAMPLE // 2)], batch)
        seconds = _repeats(networks, batches)
        first = next(iter(seconds.values()))
        for name, taken in seconds.items():
            ms = 1000 * statistics.median(taken) / len(batches)
            found[name].append(
                Latency(
                    batch=batch,
                    ms=ms,
                    images_per_second=1000 * batch / ms,
                    # Of the same repeat: what else the machine did then, both felt.
                    ratio=statistics.median(ours / theirs for ours, theirs in zip(taken, first, strict=True)),
                )
            )
    return {name: tuple(each) for name, each in found.items()}


def _repeats(networks: Mapping[str, Callable[[Tensor], object]], batches: tuple[Tensor, ...]) -> dict[str, list[float]]:
    for network in networks.values():
        _seconds(network, batches[:8])
    taken: dict[str, list[float]] = {name: [] for name in networks}
    began = time.perf_counter()
    for repeat in range(MOST):
        if repeat >= FEWEST and time.perf_counter() - began > SECONDS:
            break
        for name, network in networks.items():
            taken[name].append(_seconds(network, batches))
    return taken


def _seconds(network: Callable[[Tensor], object], batches: tuple[Tensor, ...]) -> float:
    _settle(batches[0])
    began = time.perf_counter()
    for batch in batches:
        network(batch)
        _settle(batch)
    return time.perf_counter() - began


def _settle(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
