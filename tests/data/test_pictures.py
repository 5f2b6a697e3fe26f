"""Pictures in files: shown as torchvision shows them, to the bit, and none that could hurt."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from metadistiller.data import Augment, Dataset, evaluation_images
from metadistiller.data._files import ImageFiles, resized_crop_box
from metadistiller.data._order import generator
from metadistiller.data._pictures import read_picture
from metadistiller.errors import DataError

CPU = torch.device("cpu")
SIZES = [(300, 400), (500, 375), (224, 224), (256, 300), (100, 333), (257, 301), (31, 20)]


def dataset(images: ImageFiles, *, flip: bool = True, min_area: float = 0.1) -> Dataset:
    return Dataset(
        name="pictures",
        train=images,
        test=images,
        classes=("a", "b", "c"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        augment=Augment(pad=0, flip=flip, min_area=min_area),
        source="the test",
    )


def photograph(path: Path, size: tuple[int, int], mode: str = "RGB") -> str:
    """Smooth enough that JPEG leaves something of it."""
    draw = torch.Generator().manual_seed(9)
    small = Image.fromarray(torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=draw).numpy())
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return str(path)


# Evaluation


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_evaluation_is_torchvision_s_to_the_bit(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    path = photograph(tmp_path / "x.jpg", size, mode)
    images = ImageFiles([path], torch.tensor([0]), 224, 256, 10**6)
    show = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    assert torch.equal(images.pixels(torch.tensor([0]))[0], show(Image.open(path).convert("RGB")))


def test_evaluation_and_normalisation_are_torchvision_s_to_the_bit(tmp_path: Path) -> None:
    path = photograph(tmp_path / "x.jpg", (80, 60))
    data = dataset(ImageFiles([path] * 3, torch.arange(3), 32, 36, 10**6))
    show = transforms.Compose(
        [
            transforms.Resize(36),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
        ]
    )
    shown = evaluation_images(data.test.pixels(torch.tensor([1])), data)
    assert torch.equal(shown[0], show(Image.open(path)))


# Training


def test_training_is_torchvision_s_crop_of_the_drawn_window_to_the_bit(tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{number}.jpg", size) for number, size in enumerate(SIZES)]
    data = dataset(ImageFiles(paths, torch.arange(len(SIZES)) % 3, 40, 44, 10**6))
    shown, _ = data.training_view(seed=7, device=CPU).batch(torch.arange(len(SIZES)), epoch=2, stream="X_train")
    mirrored = []
    for number, path in enumerate(paths):
        draws = torch.rand(23, generator=generator(7, "augment", "X_train", 2, number), dtype=torch.float64).tolist()
        picture = Image.open(path)
        left, top, right, bottom = resized_crop_box(picture.size, draws, min_area=0.1)
        expected = functional.resized_crop(picture, top, left, bottom - top, right - left, [40, 40])
        mirrored.append(draws[-1] < 0.5)
        if mirrored[-1]:
            expected = functional.hflip(expected)
        values = shown[number] * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
        assert torch.equal((values * 255).round().to(torch.uint8), functional.pil_to_tensor(expected))
    assert set(mirrored) == {True, False}


def boxes(size: tuple[int, int], min_area: float, count: int) -> Tensor:
    """Left, top, width and height of our windows, (count, 4)."""
    draws = torch.rand(count, 23, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    found = torch.tensor([resized_crop_box(size, row, min_area=min_area) for row in draws])
    return torch.cat([found[:, :2], found[:, 2:] - found[:, :2]], dim=1)


def torchvision_boxes(size: tuple[int, int], min_area: float, count: int) -> Tensor:
    image = Image.new("L", size)
    torch.manual_seed(4)
    draw: Callable[..., tuple[int, int, int, int]] = transforms.RandomResizedCrop.get_params
    found = torch.tensor([draw(image, [min_area, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    return found[:, [1, 0, 3, 2]]


@pytest.mark.parametrize("size", [(500, 375), (120, 480), (900, 90), (40, 40)])
@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_windows_are_distributed_as_torchvision_s(size: tuple[int, int], min_area: float) -> None:
    count = 1500
    ours, theirs = (draw(size, min_area, count).double() for draw in (boxes, torchvision_boxes))
    assert ours.min() >= 0
    assert (ours[:, 2:] >= 1).all()
    assert ((ours[:, :2] + ours[:, 2:]) <= torch.tensor(size)).all()
    for quantity in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3], lambda b: b[:, 0], lambda b: b[:, 1]):
        mine, other = quantity(ours).sort().values, quantity(theirs).sort().values
        ends = torch.cat([mine, other]).unique()
        shares = [torch.searchsorted(values, ends, right=True) / count for values in (mine, other)]
        # Kolmogorov and Smirnov: equal distributions differ by more than this once in a thousand times.
        assert (shares[0] - shares[1]).abs().max() < 1.95 * (2 / count) ** 0.5


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (1, 7), (7, 1), (2, 9), (9, 2), (30, 40), (41, 40)])
def test_where_no_window_fits_the_middle_is_torchvision_s(size: tuple[int, int]) -> None:
    top, left, tall, wide = transforms.RandomResizedCrop.get_params(Image.new("L", size), [50.0, 50.0], [3 / 4, 4 / 3])
    assert resized_crop_box(size, [0.5] * 23, min_area=50.0) == (left, top, left + wide, top + tall)


def test_a_half_is_mirrored_and_what_must_not_be_is_not(tmp_path: Path) -> None:
    Image.fromarray(torch.arange(0, 240, 10, dtype=torch.uint8).expand(24, 24).numpy()).save(tmp_path / "ramp.png")
    images = ImageFiles([str(tmp_path / "ramp.png")] * 600, torch.arange(600) % 3, 8, 8, 10_000)
    for flip, share in ((True, 0.5), (False, 0.0)):
        shown, _ = (
            dataset(images, flip=flip, min_area=0.5)
            .training_view(seed=0, device=CPU)
            .batch(torch.arange(600), epoch=0, stream="train")
        )
        falling = (shown[:, 0, 4, 7] < shown[:, 0, 4, 0]).float().mean().item()
        assert falling == pytest.approx(share, abs=5 * 0.5 / 600**0.5 if flip else 0)


# What is refused, and what is not


def test_a_picture_taken_sideways_is_turned_and_a_broken_note_about_it_is_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(str(tmp_path / "turned.png"), max_pixels=1000).size == (16, 32)
    image.save(tmp_path / "broken.png", exif=b"Exif\x00\x00neither II nor MM")
    assert read_picture(str(tmp_path / "broken.png"), max_pixels=1000).size == (32, 16)


def test_images_too_large_before_or_after_the_resize_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "large.png")
    Image.new("RGB", (1, 5000)).save(tmp_path / "line.png")
    paths = [str(tmp_path / name) for name in ("large.png", "line.png")]
    images = ImageFiles(paths, torch.tensor([0, 1]), 32, 36, 10_000)
    with pytest.raises(DataError, match=r"large\.png cannot be read \(200x100 pixels are more than"):
        images.pixels(torch.tensor([0]))
    with pytest.raises(DataError, match=r"line\.png cannot be read \(36x180000 pixels after the resize"):
        images.pixels(torch.tensor([1]))
