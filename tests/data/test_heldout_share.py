"""Images kept back: never trained on, all that is held out, and the same share of each class."""

from itertools import chain

import pytest
import torch

from metadistiller.data import Batches, Disjoint, Halves, Stream, Train
from metadistiller.errors import ConfigError

from .views import Recorder

pytestmark = pytest.mark.usefixtures("fresh_permutations")


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
