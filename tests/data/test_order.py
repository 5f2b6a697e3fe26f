"""The order of the images: partitions, disjoint halves, disjoint batches; nothing depends on what was asked before."""

import random
from collections.abc import Iterator
from itertools import chain, pairwise

import pytest
import torch
from torch import Tensor

from metadistiller.data import (
    Augment,
    Batches,
    Dataset,
    Disjoint,
    Halves,
    ImageSet,
    Stream,
    Train,
    TrainingImages,
    TrainingView,
    seeded,
)
from metadistiller.data._order import (
    derived_seed,
    disjoint_batch,
    generator,
    halves_batch,
    permutation,
    steps_per_epoch,
    train_batch,
)
from metadistiller.errors import ConfigError

SIZES = [(10, 5), (10, 3), (11, 3), (9, 4), (7, 2), (6, 5), (5, 5), (128, 128), (1000, 64)]
HALVES = [(8, (4, 4)), (12, (2, 3)), (11, (2, 4)), (20, (10, 1)), (100, (8, 25)), (41, (6, 6))]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    permutation.cache_clear()
    yield
    permutation.cache_clear()


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


# Seeds


def test_purposes_have_seeds_of_their_own() -> None:
    seeds = {
        derived_seed(seed, purpose, epoch)
        for seed in range(20)
        for purpose in ("train", "halves", "augment", "backbone")
        for epoch in range(20)
    }
    assert len(seeds) == 20 * 4 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_does_not_depend_on_the_interpreter() -> None:
    # SHA-256 of "0/train/0", its first eight bytes halved: a resumed run must find the same order tomorrow.
    assert derived_seed(0, "train", 0) == 0x58FA7E8757E422B4 >> 1


def test_generators_are_fresh() -> None:
    first, again, other = generator(3, "x", 1), generator(3, "x", 1), generator(3, "x", 2)
    draw = torch.rand(4, generator=first)
    assert torch.equal(torch.rand(4, generator=again), draw)
    assert not torch.equal(torch.rand(4, generator=other), draw)
    assert not torch.equal(torch.rand(4, generator=first), draw)


def test_seeded_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(11)
    torch.rand(3)
    before = torch.get_rng_state()
    with seeded(0, "a"):
        inside = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with seeded(0, "a"):
        assert torch.equal(torch.rand(5), inside)
    with seeded(0, "b"):
        assert not torch.equal(torch.rand(5), inside)
    with seeded(1, "a"):
        assert not torch.equal(torch.rand(5), inside)


def test_seeded_gives_the_generator_back_after_an_error() -> None:
    def draw_and_fail() -> None:
        with seeded(0, "a"):
            torch.rand(2)
            raise ZeroDivisionError("a defect")

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="a defect"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)


# Streams


def numbered(count: int) -> TrainingImages:
    """Image i is of colour i and has label i."""
    labels = torch.arange(count)
    images = ImageSet(labels.to(torch.uint8)[:, None, None, None].repeat(1, 3, 4, 4), labels)
    data = Dataset(
        name="numbered",
        train=images,
        test=images,
        classes=tuple(map(str, range(count))),
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
        augment=Augment(pad=0, flip=False),
        source="the test",
    )
    return TrainingImages(data, seed=3, device=torch.device("cpu"))


def colours(batch: tuple[Tensor, Tensor]) -> list[int]:
    images, labels = batch
    assert torch.equal(images.round().long(), labels[:, None, None, None].expand_as(images))
    return labels.tolist()


@pytest.mark.parametrize(("count", "batch"), [(20, 6), (21, 5), (8, 8), (10, 4)])
def test_batches_show_each_image_once_with_its_label(count: int, batch: int) -> None:
    batches = Batches(numbered(count), batch_size=batch)
    steps = range(batches.steps_per_epoch)
    seen = list(chain(*(colours(batches.batch(Train(), epoch=2, step=s)) for s in steps)))  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) == (count - 1 if count % batch == 1 else count)


@pytest.mark.parametrize(
    ("count", "batch", "heldout", "sizes"),
    [
        (20, 4, None, (4, 4)),
        (20, 4, 7, (4, 7)),
        (20, 15, None, (10, 10)),
        (21, 15, None, (10, 11)),
        (20, 4, 500, (4, 10)),
        (20, 15, 2, (10, 2)),
    ],
)
def test_halves_are_as_large_as_asked_or_as_they_can_be(
    count: int, batch: int, heldout: int | None, sizes: tuple[int, int]
) -> None:
    batches = Batches(numbered(count), batch_size=batch)
    pairs = [batches.batch(Halves(heldout_batch_size=heldout), epoch=1, step=step) for step in range(30)]
    train = [colours(pair[0]) for pair in pairs]  # type: ignore[arg-type]
    test = [colours(pair[1]) for pair in pairs]  # type: ignore[arg-type]
    assert {(len(a), len(b)) for a, b in zip(train, test, strict=True)} == {sizes}
    assert not set(chain(*train)) & set(chain(*test))


@pytest.mark.parametrize(
    ("count", "batch", "wanted", "size"), [(20, 4, None, 4), (20, 4, 7, 7), (20, 4, 500, 16), (20, 12, None, 8)]
)
def test_a_disjoint_batch_is_beside_the_training_batch_of_its_step(
    count: int, batch: int, wanted: int | None, size: int
) -> None:
    batches = Batches(numbered(count), batch_size=batch)
    for epoch in range(5):
        for step in range(batches.steps_per_epoch):
            train, other = (
                colours(batches.batch(stream, epoch=epoch, step=step))  # type: ignore[arg-type]
                for stream in (Train(), Disjoint(batch_size=wanted))
            )
            assert len(other) == size
            assert not set(train) & set(other)


@pytest.mark.parametrize(("count", "batch"), [(10, 10), (10, 9), (3, 2)])
def test_a_training_batch_that_leaves_nothing_beside_it_is_refused(count: int, batch: int) -> None:
    batches = Batches(numbered(count), batch_size=batch)
    message = rf"has {count} images and a step takes {batch} of them.* take --method.lookahead own"
    with pytest.raises(ConfigError, match=message):
        batches.batch(Disjoint(), epoch=0, step=0)


@pytest.mark.parametrize(("count", "batch"), [(10, 11), (10, 128), (3, 4)])
def test_a_batch_larger_than_the_data_is_refused(count: int, batch: int) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size is {batch}, .* has {count} images; take --batch_size \d"):
        Batches(numbered(count), batch_size=batch)


def test_a_batch_as_large_as_the_data_is_not() -> None:
    assert Batches(numbered(10), batch_size=10).steps_per_epoch == 1


# Hints


class Recorder(TrainingView):
    """Remembers what it was hinted at and asked for: kind, epoch, stream, first index."""

    def __init__(self, count: int) -> None:
        self.labels, self.seed, self.size = torch.arange(count), 3, (1, 1)
        self.calls: list[tuple[str, int, str, tuple[int, ...]]] = []

    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        self.calls.append(("batch", epoch, stream, tuple(index.tolist())))
        return index, index

    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        self.calls.append(("prepare", epoch, stream, tuple(index.tolist())))

    def taken(self) -> list[tuple[str, int, str, tuple[int, ...]]]:
        calls, self.calls = self.calls, []
        return calls


@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("stream", [Train(), Halves(heldout_batch_size=3), Disjoint(batch_size=3)])
def test_hints_are_of_what_is_asked_for_next(stream: Stream, distance: int) -> None:
    view = Recorder(40)
    batches = Batches(view, batch_size=4)
    steps = range(0, batches.steps_per_epoch, distance)
    for epoch in range(2):
        hints, asked = [], []
        for step in steps:
            batches.batch(stream, epoch=epoch, step=step)
            calls = view.taken()
            hints.append([call[1:] for call in calls if call[0] == "prepare"])
            asked.append([call[1:] for call in calls if call[0] == "batch"])
            # All hints come first: threads decode on while the batch is waited for.
            assert [call[0] for call in calls] == ["prepare"] * len(hints[-1]) + ["batch"] * len(asked[-1])
        # How far steps lie apart shows with the second.
        for place in range(0 if distance == 1 or epoch else 1, len(steps)):
            assert hints[place] == list(chain(*asked[place : place + 3]))


def test_hints_end_with_the_epoch_and_follow_a_jump() -> None:
    view = Recorder(20)
    batches = Batches(view, batch_size=4)
    for epoch, step in ((4, 4), (4, 1), (4, 2), (3, 2), (5, 0)):
        batches.batch(Train(), epoch=epoch, step=step)
        found = [call for call in view.taken() if call[0] == "prepare"]
        assert [index for _, _, _, index in found] == [
            tuple(train_batch(20, 4, seed=3, epoch=epoch, step=soon).tolist()) for soon in range(step, min(step + 3, 5))
        ]
        assert {call[1] for call in found} == {epoch}


def test_the_same_step_again_and_a_step_beyond_the_epoch_are_no_trouble() -> None:
    view = Recorder(20)
    batches = Batches(view, batch_size=4)
    places = (0, 0, 1, 1, 9, 0)
    asked = [batches.batch(Train(), epoch=0, step=step)[1].tolist() for step in places]  # type: ignore[union-attr]
    assert asked == [train_batch(20, 4, seed=3, epoch=0, step=step).tolist() for step in places]


# Images kept back


def of_classes(count: int, classes: int) -> Recorder:
    view = Recorder(count)
    view.labels = torch.arange(count) % classes
    return view


def shown(batches: Batches, stream: Stream, epochs: int = 3) -> list[list[int]]:
    """Indices of every batch, the two of a pair one after the other."""
    found = []
    for epoch in range(epochs):
        for step in range(batches.steps_per_epoch):
            batch = batches.batch(stream, epoch=epoch, step=step)
            pair = batch if isinstance(stream, Halves) else (batch,)
            found += [each[0].tolist() for each in pair]  # type: ignore[index]
    return found


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
@pytest.mark.parametrize("share", [0.05, 0.18, 0.3, 0.5, 0.9])
def test_what_is_kept_back_is_never_trained_on_and_is_all_that_is_held_out(share: float, sampling: str) -> None:
    view = of_classes(60, 3)
    batches = Batches(view, batch_size=4, heldout_share=share, sampling=sampling)  # type: ignore[arg-type]
    trained = set(chain(*shown(batches, Train(), 30)))
    kept = set(range(60)) - trained
    assert len(kept) == batches.kept_back == 3 * round(20 * share)
    # The same share of each class.
    assert [sum(index % 3 == label for index in kept) for label in range(3)] == [round(20 * share)] * 3
    for stream in (Disjoint(), Disjoint(batch_size=2), Disjoint(batch_size=500)):
        held_out = shown(batches, stream, 30)
        assert set(chain(*held_out)) <= kept
        assert stream.batch_size != 500 or set(held_out[0]) == kept
        assert {len(batch) for batch in held_out} == {min(stream.batch_size or 4, len(kept))}
    pairs = shown(batches, Halves(heldout_batch_size=3), 30)
    assert set(chain(*pairs[0::2])) == trained
    assert set(chain(*pairs[1::2])) == kept
    # Every batch of distinct images.
    assert all(len(set(batch)) == len(batch) for batch in pairs)


def test_an_epoch_has_each_image_that_is_trained_on_once() -> None:
    batches = Batches(of_classes(60, 3), batch_size=4, heldout_share=0.3)
    assert batches.steps_per_epoch == 11
    for epoch in range(3):
        seen = [index for step in range(11) for index in batches.batch(Train(), epoch=epoch, step=step)[0].tolist()]
        assert len(seen) == len(set(seen)) == 42


def test_what_is_kept_back_depends_on_the_seed_alone() -> None:
    def kept(seed: int, batch_size: int) -> set[int]:
        view = of_classes(60, 3)
        view.seed = seed
        return set(chain(*shown(Batches(view, batch_size=batch_size, heldout_share=0.3), Disjoint(), 30)))

    assert kept(1, 4) == kept(1, 9)
    assert kept(1, 4) != kept(2, 4)


def test_a_class_is_never_kept_back_whole() -> None:
    view = Recorder(12)
    view.labels = torch.tensor([0] * 9 + [1] * 2 + [2])
    trained = set(chain(*shown(Batches(view, batch_size=2, heldout_share=0.9), Train(), 20)))
    assert {int(view.labels[index]) for index in trained} == {0, 1, 2}


def test_a_share_of_nothing_is_refused_and_no_share_changes_nothing() -> None:
    with pytest.raises(ConfigError, match=r"heldout_share is 0\.01, .* keeps 0 back; take a larger share, or 0"):
        Batches(of_classes(60, 3), batch_size=4, heldout_share=0.01)
    with pytest.raises(ConfigError, match=r"the training set has 6 images; take --batch_size \d"):
        Batches(of_classes(60, 3), batch_size=7, heldout_share=0.9)
    for stream in (Train(), Halves(), Disjoint(batch_size=5)):
        with_none, without = (
            shown(Batches(of_classes(60, 3), batch_size=4, **more), stream) for more in ({"heldout_share": 0.0}, {})
        )
        assert with_none == without
