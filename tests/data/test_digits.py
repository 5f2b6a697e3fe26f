"""The packaged digits: the split adds up, follows its seed, and shows the pixels as they are."""

import pytest
import torch

from metadistiller.data._base import Dataset
from metadistiller.data.digits import Options, build
from metadistiller.errors import ConfigError, DataError


def test_the_split_is_exact_and_stratified() -> None:
    digits = build(Options())
    assert (len(digits.train), len(digits.test)) == (1000, 797)
    assert digits.size == (32, 32)
    trained = torch.bincount(digits.train.labels)
    everything = trained + torch.bincount(digits.test.labels)
    assert int(everything.sum()) == 1797
    assert (trained - everything * 1000 / 1797).abs().max() < 1


def test_no_test_image_is_trained_on_and_none_is_lost() -> None:
    first, second = build(Options(split_seed=0)), build(Options(split_seed=1))

    def every_image(data: Dataset) -> list[bytes]:
        both = torch.cat([data.train.images, data.test.images])
        return sorted(image.numpy().tobytes() for image in both)

    assert every_image(first) == every_image(second)
    assert not torch.equal(first.train.images, second.train.images)


def test_the_same_seed_gives_the_same_split() -> None:
    first, second = build(Options(split_seed=5)), build(Options(split_seed=5))
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_pixels_use_the_whole_range_and_are_gray() -> None:
    digits = build(Options())
    assert digits.train.images.max() == 255
    assert digits.train.images.min() == 0
    assert torch.equal(digits.train.images[:, 0], digits.train.images[:, 2])
    assert 0 < digits.mean[0] == digits.mean[1] < 1


def test_a_digit_is_never_mirrored() -> None:
    assert build(Options()).augment.flip is False


def test_few_shot_takes_as_many_of_each_and_leaves_the_test_set() -> None:
    few, full = build(Options(train_per_class=7)), build(Options())
    assert torch.bincount(few.train.labels).tolist() == [7] * 10
    assert torch.equal(few.test.images, full.test.images)
    assert few.mean == full.mean


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="train_per_class is 500"):
        build(Options(train_per_class=500))


def test_a_root_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.root is 'somewhere'; leave it out"):
        Options(root="somewhere")


def test_no_images_of_a_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.train_per_class is 0"):
        Options(train_per_class=0)
