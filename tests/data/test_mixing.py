"""Augmentation by name, mixing, balance: functions of a place in training, and nothing where nothing is asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metadistiller.config import Augmentation
from metadistiller.data import (
    Augment,
    Batches,
    Dataset,
    Disjoint,
    ImageSet,
    Mixing,
    Train,
    augmented,
    class_weights,
)

CPU = torch.device("cpu")
COUNTS = 50, 9, 5
NOTHING = Augmentation()
KINDS = [
    Augmentation(policy="randaugment"),
    Augmentation(policy="autoaugment"),
    Augmentation(policy="trivialaugment"),
    Augmentation(random_erasing=0.5),
]


def dataset() -> Dataset:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    drawn = torch.Generator().manual_seed(1)
    part = ImageSet(torch.randint(256, (len(labels), 3, 12, 12), dtype=torch.uint8, generator=drawn), labels)
    return Dataset("noise", part, part, ("a", "b", "c"), (0.5,) * 3, (0.3,) * 3, Augment(pad=1), "the test")


def batches(augment: Augmentation = NOTHING, sampling: str = "uniform", seed: int = 0) -> Batches:
    data = dataset()
    view = augmented(data.training_view(seed=seed, device=CPU), data, augment)
    return Batches(view, batch_size=8, mixing=Mixing.of(augment, 3), sampling=sampling)  # type: ignore[arg-type]


def test_nothing_asked_for_is_the_view_itself() -> None:
    data = dataset()
    view = data.training_view(seed=0, device=CPU)
    assert augmented(view, data, Augmentation(mixup=1)) is view
    assert Mixing.of(Augmentation(policy="randaugment"), 3) is None


@pytest.mark.parametrize("augment", KINDS)
def test_what_happens_belongs_to_the_image_its_epoch_stream_and_seed(augment: Augmentation) -> None:
    data = dataset()

    def shown(index: list[int], *, epoch: int = 0, stream: str = "train", seed: int = 0) -> Tensor:
        view = augmented(data.training_view(seed=seed, device=CPU), data, augment)
        return view.batch(torch.tensor(index), epoch=epoch, stream=stream)[0]

    whole = shown(list(range(40)))
    before = torch.get_rng_state()
    assert torch.equal(shown([7, 30, 7]), whole[[7, 30, 7]])
    assert torch.equal(torch.get_rng_state(), before)
    plain = data.training_view(seed=0, device=CPU).batch(torch.arange(40), epoch=0, stream="train")[0]
    for other in (plain, shown(list(range(40)), epoch=1), shown(list(range(40)), stream="X_test")):
        assert not torch.equal(other, whole)


@pytest.mark.parametrize("augment", [Augmentation(mixup=1), Augmentation(cutmix=1), Augmentation(mixup=1, cutmix=1)])
def test_mixed_labels_are_probabilities_of_train_alone(augment: Augmentation) -> None:
    ours, plain = batches(augment), batches()
    for step in range(4):
        images, labels = ours.batch(Train(), epoch=1, step=step)
        clean, hard = plain.batch(Train(), epoch=1, step=step)
        assert images.shape == clean.shape
        assert labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(1), torch.ones(len(hard)))
        again = batches(augment).batch(Train(), epoch=1, step=step)
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], labels)
        one, two = F.one_hot(hard, 3).float(), F.one_hot(hard, 3).roll(1, 0).float()
        share = ((labels - two) * (one - two)).sum() / (one - two).square().sum().clamp_min(1)
        torch.testing.assert_close(labels, share * one + (1 - share) * two, atol=1e-5, rtol=0)
        if augment.cutmix == 0 and not torch.equal(one, two):
            torch.testing.assert_close(images, share * clean + (1 - share) * clean.roll(1, 0), atol=1e-4, rtol=0)
        for a, b in zip(*(s.batch(Disjoint(), epoch=1, step=step) for s in (ours, plain)), strict=True):
            assert torch.equal(a, b)


def test_a_balanced_epoch_shows_classes_equally_often_and_the_batch_beside_is_disjoint() -> None:
    balanced = batches(sampling="balanced")
    for epoch in range(3):
        seen = []
        for step in range(balanced.steps_per_epoch):
            ((taken, _),) = balanced._parts(Train(), epoch, step)
            ((beside, _),) = balanced._parts(Disjoint(), epoch, step)
            assert not set(taken.tolist()) & set(beside.tolist())
            assert len(set(beside.tolist())) == 8
            seen.append(taken)
        counts = torch.bincount(dataset().train.labels[torch.cat(seen)])
        assert counts.max() - counts.min() <= 1
        assert torch.equal(batches(sampling="balanced")._parts(Train(), epoch, 3)[0][0], seen[3])


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_class_weights_have_mean_1_over_images(kind: str) -> None:
    labels = dataset().train.labels
    weights = class_weights(labels, 3, kind)
    assert weights is not None
    assert weights[labels].mean().item() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]
    if kind == "inverse":
        torch.testing.assert_close(weights, 64 / (3 * torch.tensor(COUNTS).float()))
    assert class_weights(labels, 3, "none") is None
