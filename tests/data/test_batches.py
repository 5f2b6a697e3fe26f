"""Batches of a stream: each image with its label, as many as asked, and hints of what comes next."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from metadistiller.data import Augment, Batches, Dataset, Disjoint, Halves, ImageSet, Stream, Train, TrainingImages
from metadistiller.data._order import train_batch
from metadistiller.errors import ConfigError

from .views import Recorder

pytestmark = pytest.mark.usefixtures("fresh_permutations")


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
