"""Every random draw is a pure function of (seed, purpose, epoch, ...): nothing has a state to save or to lose.

A stream answers `batch(epoch, step)` for any epoch and step, in any order, with the same bits. So a resumed run needs
two integers, and neither workers, ranks, logging nor evaluation can change what is trained on.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose; independent purposes get independent streams."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A fresh processor-side generator for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: int | str) -> Iterator[None]:
    """Within the block, torch's global generator is seeded for one purpose; afterwards it is as before.

    torch.nn initialises layers from the global generator and takes no other.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reset a GPU's generator, which nobody here draws from or puts back.
        torch.default_generator.manual_seed(derived_seed(seed, *purpose))
        yield


@lru_cache(maxsize=16)
def permutation(count: int, seed: int, *purpose: int | str) -> Tensor:
    """A random order of 0..count-1; (count,) int64. Shared between callers: do not write into it."""
    return torch.randperm(count, generator=generator(seed, *purpose))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in a pass over `count` images, the short last one included (391 for CIFAR-100 at 128).

    A last batch of a single image is left out: batch normalisation cannot use it, and the next epoch's order is
    another.
    """
    full, rest = divmod(count, batch_size)
    return full + (rest > 1)


def rank_slice(count: int, rank: int, world: int) -> tuple[int, int, float]:
    """Which images of a batch of `count` a rank takes: begin, end, and the share of the batch that they are.

    Slices are as even as can be, and none has a single image, which batch normalisation cannot use. Where there are too
    few for all, the last ranks stand by: they take images of the first rank's, with share 0.
    """
    active = max(1, min(world, count // 2))
    if rank >= active:
        return 0, min(2, count), 0.0
    begin, end = count * rank // active, count * (rank + 1) // active
    return begin, end, (end - begin) / count


@lru_cache(maxsize=4)
def _balanced_order(classes: tuple[Tensor, ...], seed: int, epoch: int) -> Tensor:
    drawn = generator(seed, "balanced", epoch)
    quota, rest = divmod(sum(map(len, classes)), len(classes))
    more = set(torch.randperm(len(classes), generator=drawn)[:rest].tolist())
    chosen = []
    for label, members in enumerate(classes):
        wanted = quota + (label in more)
        turns = -(-wanted // len(members))
        orders = [members[torch.randperm(len(members), generator=drawn)] for _ in range(turns)]
        chosen.append(torch.cat([members[:0], *orders])[:wanted])
    found = torch.cat(chosen)
    return found[torch.randperm(len(found), generator=drawn)]


def balanced_batch(classes: tuple[Tensor, ...], batch_size: int, *, seed: int, epoch: int, step: int) -> Tensor:
    """Indices of training batch `step` of an epoch that shows all classes equally often, to one image; (B,) int64.

    An epoch has as many images as the set. A class is passed through in random order, and again in another order when
    it runs out; what is left of a large class has its turn in other epochs.

    Args: classes: indices of the images of each class.
    """
    return _balanced_order(classes, seed, epoch)[step * batch_size : (step + 1) * batch_size]


def train_batch(count: int, batch_size: int, *, seed: int, epoch: int, step: int) -> Tensor:
    """Indices of training batch `step` of `epoch`; (B,) int64."""
    order = permutation(count, seed, "train", epoch)
    return order[step * batch_size : (step + 1) * batch_size]


def halves_batch(count: int, sizes: tuple[int, int], *, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """Indices of one batch from each of two disjoint halves of the data: X_train and X_test of Algorithm 1.

    The halves are drawn once per epoch, so everything that the look-ahead step sees in an epoch is disjoint from
    everything that it is judged on. A half is passed through in random order, and again in another order when it runs
    out.

    Args:
        count: images in all, at least 4.
        sizes: images of the two batches; each at most its half (the caller sees to it).
    Returns: indices into the training set, (sizes[0],) and (sizes[1],) int64.
    Departs: Algorithm 1 splits at every update; one split per epoch has the same statistics (reading G3).
    """
    order = permutation(count, seed, "halves", epoch)
    halves = order[: count // 2], order[count // 2 :]
    first, second = (
        half[pass_batch(len(half), size, name, seed=seed, epoch=epoch, step=step)]
        for name, half, size in zip(("X_train", "X_test"), halves, sizes, strict=True)
    )
    return first, second


def pass_batch(count: int, size: int, name: str, *, seed: int, epoch: int, step: int) -> Tensor:
    """Indices of batch `step` of passes in random order, each in another; (size,) int64.

    Args:
        count: images in all.
        size: images of a batch; at most `count` (the caller sees to it). What a pass leaves over is left out of it.
        name: of the passes; other names give other orders.
    """
    turn, place = divmod(step, count // size)
    return permutation(count, seed, name, epoch, turn)[place * size : (place + 1) * size]


def class_in_order(labels: Tensor, label: int, purpose: str, *, seed: int) -> Tensor:
    """Indices of the images of a class in random order; (n,) int64, empty where there is none."""
    members = torch.nonzero(labels == label).flatten()
    return members[torch.randperm(len(members), generator=generator(seed, purpose, label))]


def kept_back(labels: Tensor, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images that are trained on and of those that are kept from training, both in the set's order.

    Args:
        labels: of the training set, (N,) int64.
        share: of each class that is kept back, rounded to whole images; at least one image of a class is trained on.
    """
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = class_in_order(labels, label, "kept back", seed=seed)
        kept[members[: max(0, min(round(share * len(members)), len(members) - 1))]] = True
    return torch.nonzero(~kept).flatten(), torch.nonzero(kept).flatten()


def disjoint_batch(
    count: int, batch_size: int, size: int, *, seed: int, epoch: int, step: int, taken: Tensor | None = None
) -> Tensor:
    """Indices of a batch of images that are not in training batch `step` of `epoch`: X_test beside X_train.

    The whole set is passed through in an order of its own; images that the step trains on are passed over.

    Args:
        count: images in all.
        batch_size: B, of the training batches.
        size: images of the batch; at most what training batch `step` leaves (the caller sees to it).
        taken: that batch, at most B images; None for train_batch's.
    Returns: (size,) int64.
    """
    if taken is None:
        taken = train_batch(count, batch_size, seed=seed, epoch=epoch, step=step)
    # Windows begin `size` apart and overlap by B, so that there are enough whatever has to be passed over. A short last
    # training batch is counted as a whole one: the windows of an epoch have one spacing.
    turn, place = divmod(step, max(1, (count - batch_size) // size))
    order = permutation(count, seed, "X_test", epoch, turn)
    candidates = order[place * size : place * size + size + len(taken)]
    return candidates[torch.isin(candidates, taken, invert=True)][:size]
