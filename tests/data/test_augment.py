"""Augmentation: every result is one that was allowed, every one allowed occurs, and a draw belongs to its image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metadistiller.data import Augment, Dataset, ImageSet, TrainingImages, evaluation_images
from metadistiller.data._augment import _resized_crop
from metadistiller.data._base import channel_statistics

HEIGHT, WIDTH = 6, 5  # unlike, so that nothing is mistaken for its transpose
CPU = torch.device("cpu")


def pixels(count: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Noise whose channels differ in mean and spread."""
    draw = torch.Generator().manual_seed(4)
    noise = torch.rand(count, 3, height, width, generator=draw)
    low, high = torch.tensor([10.0, 60.0, 1.0]), torch.tensor([250.0, 120.0, 90.0])
    return (low[:, None, None] + noise * (high - low)[:, None, None]).to(torch.uint8)


def dataset(images: Tensor, augment: Augment) -> Dataset:
    part = ImageSet(images, torch.arange(len(images)) % 2)
    mean, std = channel_statistics(images)
    return Dataset(
        name="noise",
        train=part,
        test=part,
        classes=("even", "odd"),
        mean=mean,
        std=std,
        augment=augment,
        source="the test",
    )


def shown(data: Dataset, *, epoch: int = 0, seed: int = 0, stream: str = "train") -> Tensor:
    """All images in their order."""
    images, labels = TrainingImages(data, seed=seed, device=CPU).batch(
        torch.arange(len(data.train)), epoch=epoch, stream=stream
    )
    assert torch.equal(labels, data.train.labels)
    return images


def as_pixels(images: Tensor, data: Dataset) -> Tensor:
    """The uint8 values that were normalised; fails unless the images are whole values."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (data.mean, data.std))
    values = (images.double() * std + mean) * 255
    assert (values - values.round()).abs().max() < 1e-3
    return values.round().to(torch.int64)


def windows(images: Tensor, pad: int) -> Tensor:
    """Every crop of the padded images and its mirror image: (N, 2, 2p + 1, 2p + 1, 3, H, W)."""
    height, width = images.shape[2:]
    padded = F.pad(images.long(), (pad,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    return torch.stack([crops, crops.flip(-1)], dim=1)


# Without augmentation


def test_nothing_asked_for_gives_the_normalised_image() -> None:
    data = dataset(pixels(40), Augment(pad=0, flip=False))
    images = shown(data)
    assert torch.equal(as_pixels(images, data), data.train.images.long())
    torch.testing.assert_close(images, evaluation_images(data.train.images, data), atol=2e-6, rtol=0)


def test_the_training_set_has_mean_0_and_deviation_1() -> None:
    images = shown(dataset(pixels(200), Augment(pad=0, flip=False))).double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)


def test_mirroring_does_not_change_the_statistics() -> None:
    images = shown(dataset(pixels(200), Augment(pad=0, flip=True))).double()
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)


def test_a_constant_channel_is_shown_and_finite() -> None:
    images = pixels(10)
    images[:, 1] = 77
    data = dataset(images, Augment(pad=0, flip=False))
    assert shown(data).isfinite().all()
    assert (shown(data)[:, 1].abs() < 1e-5).all()


def test_evaluation_images_are_the_images_normalised() -> None:
    data = dataset(pixels(10), Augment())
    images = evaluation_images(data.test.images, data)
    assert images.dtype == torch.float32
    assert torch.equal(as_pixels(images, data), data.test.images.long())


# Crop and mirror


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (1, False), (1, True), (2, True), (2, False)])
def test_every_result_is_a_window_and_every_window_occurs(pad: int, flip: bool) -> None:
    data = dataset(pixels(300), Augment(pad=pad, flip=flip))
    allowed = windows(data.train.images, pad)
    places = 2 * pad + 1
    counts = torch.zeros(2, places, places)
    for epoch in range(10):
        images = as_pixels(shown(data, epoch=epoch), data)
        hits = (allowed == images[:, None, None, None]).flatten(-3).all(-1)
        assert (hits.flatten(1).sum(1) == 1).all()
        counts += hits.sum(0)
    expected = counts.sum() / ((1 + flip) * places**2)
    spread = expected.sqrt()
    kinds = counts if flip else counts[:1]
    assert (kinds - expected).abs().max() < 5 * spread
    if not flip:
        assert counts[1].sum() == 0


def test_a_half_is_mirrored() -> None:
    data = dataset(pixels(4000), Augment(pad=0, flip=True))
    mirrored = (as_pixels(shown(data), data) == data.train.images.flip(3).long()).flatten(1).all(1)
    # Five standard deviations.
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


def test_the_border_is_black() -> None:
    data = dataset(torch.full((400, 3, 4, 4), 255, dtype=torch.uint8), Augment(pad=1, flip=False))
    values = as_pixels(shown(data), data)
    assert set(values.unique().tolist()) == {0, 255}


# Whose draw it is


@pytest.mark.parametrize("augment", [Augment(pad=2), Augment(pad=0, min_area=0.3)])
def test_a_draw_belongs_to_the_image_and_not_to_the_batch(augment: Augment) -> None:
    training = TrainingImages(dataset(pixels(60), augment), seed=1, device=CPU)

    def batch(index: list[int], epoch: int = 3) -> Tensor:
        return training.batch(torch.tensor(index), epoch=epoch, stream="train")[0]

    everything = batch(list(range(60)))
    for index in ([7], [59, 7, 0], [3, 3], list(range(59, -1, -1))):
        torch.manual_seed(len(index))
        batch([1, 2], epoch=len(index))
        torch.testing.assert_close(batch(index), everything[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("augment", [Augment(pad=2), Augment(pad=0, min_area=0.3)])
def test_epoch_stream_and_seed_each_give_another_draw(augment: Augment) -> None:
    data = dataset(pixels(60), augment)
    first = shown(data)
    assert torch.equal(shown(data), first)
    for other in (shown(data, epoch=1), shown(data, stream="X_test"), shown(data, seed=1)):
        same = (other == first).flatten(1).all(1)
        assert same.float().mean() < 0.3


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    data = dataset(pixels(20), Augment(pad=2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = shown(data, epoch=50)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    # More epochs than the cache holds.
    for epoch in range(10):
        shown(data, epoch=epoch)
    assert torch.equal(shown(data, epoch=50), first)


# Its form


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(pad=0, flip=False), Augment(pad=0, min_area=0.3), Augment(pad=1, min_area=0.9)]
)
def test_a_batch_is_float32_images_and_int64_labels(augment: Augment) -> None:
    training = TrainingImages(dataset(pixels(12), augment), seed=0, device=CPU)
    images, labels = training.batch(torch.tensor([3, 8, 1, 0]), epoch=0, stream="train")
    assert images.shape == (4, 3, HEIGHT, WIDTH)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0, 1, 0]
    if augment.min_area == 1:
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_data_set_is_not_written_into() -> None:
    data = dataset(pixels(12), Augment(pad=2, min_area=0.5))
    before = data.train.images.clone()
    shown(data)
    assert torch.equal(data.train.images, before)


# Resized crop


def ramps(count: int, side: int = 32) -> Tensor:
    """Channel 0 says how far right a pixel is, channel 1 how far down, both 0 to 1 at the image's borders."""
    place = (torch.arange(side) + 0.5) / side
    right, down = place.expand(side, side), place[:, None].expand(side, side)
    return torch.stack([right, down, torch.zeros(side, side)]).expand(count, -1, -1, -1)


def seen_windows(count: int, min_area: float, side: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, right, top and bottom of each window, measured in what comes out."""
    uniform = torch.rand(5, count, generator=torch.Generator().manual_seed(0))
    draws = dict(zip(("top", "left", "flip", "area", "aspect"), uniform, strict=True))
    images = _resized_crop(ramps(count, side), draws, min_area)
    # Away from the border, where the image is continued by reflection, a ramp stays a ramp.
    low, high, half = side // 4, 3 * side // 4, side // 2
    edges = []
    for line in (images[:, 0, half], images[:, 1, :, half]):
        slope = (line[:, high] - line[:, low]) / (high - low)
        start = line[:, low] - slope * (low + 0.5)
        edges += [start, start + slope * side]
    left, right, top, bottom = edges
    return left, right, top, bottom


@pytest.mark.parametrize("min_area", [0.08, 0.35, 0.8, 0.99])
def test_a_window_lies_inside_and_has_the_area_asked_for(min_area: float) -> None:
    left, right, top, bottom = seen_windows(500, min_area)
    for edge in (left, right, top, bottom):
        assert edge.min() > -0.01
        assert edge.max() < 1.01
    area = (right - left) * (bottom - top)
    assert area.min() > min_area - 0.01
    assert area.max() < 1.01
    aspect = (right - left) / (bottom - top)
    assert aspect.min() > 3 / 4 - 0.02
    assert aspect.max() < 4 / 3 + 0.02


def test_windows_differ_in_area_aspect_and_place() -> None:
    left, right, top, bottom = seen_windows(500, 0.1)
    area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
    assert area.min() < 0.15
    assert area.max() > 0.9
    assert aspect.min() < 0.8
    assert aspect.max() > 1.25
    for near, far in ((left, right), (top, bottom)):
        place = near / (1 - (far - near)).clamp_min(0.05)
        assert place.min() < 0.1
        assert place.max() > 0.9
        assert place.mean().item() == pytest.approx(0.5, abs=0.1)


def test_a_window_of_nearly_the_whole_area_is_nearly_the_image() -> None:
    image = ramps(1, 32).mul(255).to(torch.uint8).repeat(100, 1, 1, 1)
    data = dataset(image, Augment(pad=0, flip=False, min_area=1 - 1e-6))
    images = shown(data).double()
    torch.testing.assert_close(images, evaluation_images(image, data).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("min_area", [0.05, 0.35, 0.9])
def test_a_constant_image_stays_constant(min_area: float) -> None:
    colours = torch.randint(0, 256, (200, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    images = colours.to(torch.uint8).repeat(1, 1, HEIGHT, WIDTH)
    data = dataset(images, Augment(pad=0, min_area=min_area))
    torch.testing.assert_close(shown(data), evaluation_images(images, data), atol=1e-4, rtol=0)


def test_a_resized_crop_is_mirrored_too() -> None:
    image = ramps(1, 32).mul(255).to(torch.uint8).repeat(400, 1, 1, 1)
    rising = {}
    for flip in (True, False):
        images = shown(dataset(image, Augment(pad=0, flip=flip, min_area=0.5)))
        rising[flip] = (images[:, 0, 16, 24] > images[:, 0, 16, 8]).float().mean().item()
    assert rising[False] == 1
    assert rising[True] == pytest.approx(0.5, abs=0.125)
