"""The order of the images: partitions, disjoint halves, disjoint batches; nothing depends on what was asked before."""

import random
from itertools import chain, pairwise

import pytest
import torch
from torch import Tensor

from metadistiller.data._order import disjoint_batch, halves_batch, permutation, steps_per_epoch, train_batch

pytestmark = pytest.mark.usefixtures("fresh_permutations")

SIZES = [(10, 5), (10, 3), (11, 3), (9, 4), (7, 2), (6, 5), (5, 5), (128, 128), (1000, 64)]
HALVES = [(8, (4, 4)), (12, (2, 3)), (11, (2, 4)), (20, (10, 1)), (100, (8, 25)), (41, (6, 6))]


def epoch_of(count: int, batch: int, *, seed: int = 0, epoch: int = 0) -> list[Tensor]:
    steps = steps_per_epoch(count, batch)
    return [train_batch(count, batch, seed=seed, epoch=epoch, step=step) for step in range(steps)]


# Training batches


@pytest.mark.parametrize(("count", "batch"), SIZES)
@pytest.mark.parametrize("epoch", [0, 7])
def test_an_epoch_is_a_partition(count: int, batch: int, epoch: int) -> None:
    batches = epoch_of(count, batch, epoch=epoch)
    seen = torch.cat(batches).sort().values.tolist()
    assert all(len(index) == batch for index in batches[:-1])
    if count % batch == 1:
        # Batch normalisation cannot use a single image.
        assert len(seen) == len(set(seen)) == count - 1
        assert set(seen) < set(range(count))
    else:
        assert seen == list(range(count))
        assert len(batches[-1]) == (count % batch or batch)


@pytest.mark.parametrize(("count", "batch", "steps"), [(50_000, 128, 391), (129, 128, 1), (130, 128, 2), (128, 128, 1)])
def test_steps_of_an_epoch(count: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(count, batch) == steps


def test_the_image_left_out_is_another_each_epoch() -> None:
    left_out = {next(iter(set(range(7)) - set(torch.cat(epoch_of(7, 3, epoch=e)).tolist()))) for e in range(60)}
    assert left_out == set(range(7))


def test_a_batch_is_a_pure_function_of_its_place() -> None:
    places = [(seed, epoch, step) for seed in range(3) for epoch in range(12) for step in range(4)]
    first = {p: train_batch(20, 6, seed=p[0], epoch=p[1], step=p[2]) for p in places}
    random.Random(0).shuffle(places)
    permutation.cache_clear()
    for place in places:
        # More places than the cache holds, and a global generator that others use.
        torch.manual_seed(random.Random(str(place)).randrange(2**31))
        halves_batch(20, (3, 3), seed=place[0], epoch=place[1], step=place[2])
        again = train_batch(20, 6, seed=place[0], epoch=place[1], step=place[2])
        assert torch.equal(again, first[place])


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [tuple(torch.cat(epoch_of(50, 10, seed=s, epoch=e)).tolist()) for s in range(8) for e in range(8)]
    assert len(set(orders)) == len(orders)


def test_an_image_comes_at_any_place_of_an_epoch() -> None:
    counts = torch.zeros(10, 10)
    for epoch in range(2000):
        counts[torch.arange(10), torch.cat(epoch_of(10, 5, epoch=epoch))] += 1
    # Expected 200 each, with a standard deviation of 13.4.
    assert (counts - 200).abs().max() < 5 * 13.4


# Halves


def halves_of(
    count: int, sizes: tuple[int, int], *, steps: int, seed: int = 0, epoch: int = 0
) -> list[tuple[list[int], list[int]]]:
    pairs = (halves_batch(count, sizes, seed=seed, epoch=epoch, step=step) for step in range(steps))
    return [(first.tolist(), second.tolist()) for first, second in pairs]


@pytest.mark.parametrize(("count", "sizes"), HALVES)
@pytest.mark.parametrize("epoch", [0, 3])
def test_halves_are_disjoint_in_the_whole_epoch(count: int, sizes: tuple[int, int], epoch: int) -> None:
    pairs = halves_of(count, sizes, steps=3 * count, epoch=epoch)
    assert all((len(first), len(second)) == sizes for first, second in pairs)
    train = {index for first, _ in pairs for index in first}
    test = {index for _, second in pairs for index in second}
    assert not train & test
    # So many turns that an image left out of one is in another.
    assert train | test == set(range(count))
    assert len(train) == count // 2


@pytest.mark.parametrize(("count", "sizes"), HALVES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_half_is_covered_once_a_turn(count: int, sizes: tuple[int, int], which: int) -> None:
    half = (count // 2, count - count // 2)[which]
    size = sizes[which]
    steps = half // size
    batches = [pair[which] for pair in halves_of(count, sizes, steps=4 * steps)]
    turns = [list(chain(*batches[turn * steps : (turn + 1) * steps])) for turn in range(4)]
    for turn in turns:
        assert len(turn) == len(set(turn)) == steps * size
        assert half - len(turn) < size
    if half > 4:
        assert len({tuple(turn) for turn in turns}) > 1


def test_halves_are_drawn_anew_each_epoch_and_seed() -> None:
    def first_half(seed: int, epoch: int) -> frozenset[int]:
        return frozenset(chain(*(first for first, _ in halves_of(40, (5, 5), steps=4, seed=seed, epoch=epoch))))

    found = [first_half(seed, epoch) for seed in range(6) for epoch in range(6)]
    assert len(set(found)) == len(found)


def test_halves_are_a_pure_function_of_their_place() -> None:
    places = [(epoch, step) for epoch in range(6) for step in range(20)]
    first = {place: halves_batch(21, (3, 4), seed=5, epoch=place[0], step=place[1]) for place in places}
    random.Random(1).shuffle(places)
    permutation.cache_clear()
    for epoch, step in places:
        for mine, other in zip(
            halves_batch(21, (3, 4), seed=5, epoch=epoch, step=step), first[epoch, step], strict=True
        ):
            assert torch.equal(mine, other)


def test_one_stream_says_nothing_about_another() -> None:
    # The first half is not the first half of the epoch's training order, nor are the two halves' orders alike.
    train = torch.cat(epoch_of(40, 10)).tolist()
    pairs = halves_of(40, (20, 20), steps=1)
    assert set(pairs[0][0]) != set(train[:20])
    split = permutation(40, 0, "halves", 0)
    inner = split[:20].tolist(), split[20:].tolist()
    ranks = [[inner[i].index(index) for index in pairs[0][i]] for i in (0, 1)]
    assert ranks[0] != ranks[1]


# Batches beside the training batch

# Images in all, images of the training batch, images of the other.
BESIDE = [(20, 10, 10), (40, 16, 16), (100, 10, 10), (109, 10, 10), (109, 10, 3), (50, 16, 40), (400, 40, 80)]


def beside(count: int, batch: int, size: int, *, seed: int = 0, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Of each step of an epoch the training batch and the batch beside it."""
    pairs = []
    for step, taken in enumerate(epoch_of(count, batch, seed=seed, epoch=epoch)):
        wanted = min(size, count - batch)
        pairs.append((taken, disjoint_batch(count, batch, wanted, seed=seed, epoch=epoch, step=step)))
    return pairs


@pytest.mark.parametrize(("count", "batch", "size"), BESIDE)
def test_a_batch_beside_the_training_batch_has_nothing_of_it_and_nothing_twice(
    count: int, batch: int, size: int
) -> None:
    for epoch in range(20):
        for taken, index in beside(count, batch, size, epoch=epoch):
            assert len(index) == min(size, count - batch)
            assert len(set(index.tolist()) | set(taken.tolist())) == len(index) + len(taken)
            assert set(index.tolist()) <= set(range(count))


@pytest.mark.parametrize(("count", "batch"), [(1000, 64), (1000, 128), (1024, 128), (400, 40), (100, 10), (109, 10)])
def test_an_epoch_of_batches_beside_shows_nearly_every_image_and_none_too_often(count: int, batch: int) -> None:
    # Windows overlap by a batch, so twice in a turn at most; what is left of the epoch after the first turn is one
    # window, or two where the last batch is short.
    bound = 3 if count % batch == 0 else 4
    unseen = []
    for seed in range(20):
        counts = torch.bincount(torch.cat([index for _, index in beside(count, batch, batch, seed=seed)]))
        assert counts.max() <= bound
        unseen.append(1 - (counts > 0).sum().item() / count)
    # A turn leaves out the last window's overlap, and as many as were shown twice; of half the data all would be 0.5.
    assert sum(unseen) / 20 < 3 * batch / count


@pytest.mark.parametrize(("count", "batch"), [(1000, 128), (109, 10), (400, 40)])
def test_batches_beside_one_after_the_other_are_of_other_images(count: int, batch: int) -> None:
    """Also where the last batch of the epoch is short."""
    shared = []
    for seed in range(20):
        indices = [set(index.tolist()) for _, index in beside(count, batch, batch, seed=seed)]
        shared += [len(one & two) / batch for one, two in pairwise(indices)]
    assert max(shared) < 0.7
    # Two random batches share as much as either has of the whole.
    assert sum(shared) / len(shared) < 2 * batch / count


def test_over_epochs_every_image_is_beside_as_often_as_any_other() -> None:
    counts = torch.zeros(40)
    for epoch in range(1000):
        for _, index in beside(40, 10, 10, epoch=epoch):
            counts[index] += 1
    # 1000 each; of independent draws the standard deviation were 27.
    assert counts.sum() == 40 * 1000
    assert (counts - 1000).abs().max() < 5 * 27


def test_batches_beside_are_drawn_anew_each_epoch_and_seed() -> None:
    found = {
        tuple(beside(40, 10, 10, seed=seed, epoch=epoch)[0][1].tolist()) for seed in range(6) for epoch in range(6)
    }
    assert len(found) == 36


def test_a_batch_beside_is_a_pure_function_of_its_place() -> None:
    places = [(seed, epoch, step) for seed in range(3) for epoch in range(6) for step in range(4)]

    def at(seed: int, epoch: int, step: int) -> Tensor:
        return disjoint_batch(21, 6, 5, seed=seed, epoch=epoch, step=step)

    first = {place: at(*place) for place in places}
    random.Random(2).shuffle(places)
    permutation.cache_clear()
    for place in places:
        torch.manual_seed(random.Random(str(place)).randrange(2**31))
        assert torch.equal(at(*place), first[place])
