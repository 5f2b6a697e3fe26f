"""A folder of photographs: both layouts, the split's laws, every mode of pixel, every bad input by name."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metadistiller.data.folder import Options, build, recognises
from metadistiller.errors import ConfigError, DataError

SIZE = 16


def solid(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def fill(place: Path, counts: dict[str, int]) -> Path:
    """So many images in each class; each has a colour of its own."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            solid(place / name / f"{number:02}.png", (10 + 60 * label, 10 * number, 7))
    return place


def options(root: Path, **given: object) -> Options:
    return Options(**{"root": str(root), "size": SIZE, **given})  # type: ignore[arg-type]


def colours(images: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(image[:, 0, 0].tolist()) for image in images}


def test_one_folder_is_split_into_disjoint_stratified_parts(tmp_path: Path) -> None:
    data = build(options(fill(tmp_path, {"b": 10, "a": 5, "c": 2}), val_fraction=0.2))
    assert data.classes == ("a", "b", "c")
    assert torch.bincount(data.train.labels).tolist() == [4, 8, 1]
    assert torch.bincount(data.test.labels).tolist() == [1, 2, 1]
    assert not colours(data.train.images) & colours(data.test.images)
    assert len(colours(data.train.images) | colours(data.test.images)) == 17


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_each_class_keeps_an_image_in_both_parts(tmp_path: Path, fraction: float) -> None:
    data = build(options(fill(tmp_path, {"a": 3, "b": 2}), val_fraction=fraction))
    assert torch.bincount(data.train.labels).min() >= 1
    assert torch.bincount(data.test.labels, minlength=2).min() >= 1


def test_the_split_follows_its_seed_only(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 12, "b": 12})
    first, again, other = (build(options(tmp_path, split_seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first.test.images, again.test.images)
    assert torch.equal(first.train.images, again.train.images)
    assert colours(first.test.images) != colours(other.test.images)


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_given_parts_are_taken_as_they_are(tmp_path: Path, held_out: str) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 2})
    fill(tmp_path / held_out, {"a": 1, "b": 2})
    data = build(options(tmp_path))
    assert (len(data.train), len(data.test)) == (5, 3)
    assert held_out in data.source


def test_val_comes_before_test(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2), ("val", 1)):
        fill(tmp_path / part, {"a": count, "b": count})
    assert len(build(options(tmp_path)).test) == 2


def test_a_class_called_train_is_no_layout(tmp_path: Path) -> None:
    assert build(options(fill(tmp_path, {"bus": 3, "train": 3}))).classes == ("bus", "train")


def test_few_shot_reads_only_what_it_takes(tmp_path: Path) -> None:
    data = build(options(fill(tmp_path, {"a": 10, "b": 10}), train_per_class=3))
    assert torch.bincount(data.train.labels).tolist() == [3, 3]
    assert len(data.test) == 4
    with pytest.raises(DataError, match="train_per_class is 9"):
        build(options(tmp_path, train_per_class=9))


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3, ".cache": 3})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "._00.png").write_bytes(b"resource fork")
    data = build(options(tmp_path))
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.test) == 6


def test_a_resized_crop_needs_no_border(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "b": 2})
    assert build(options(tmp_path)).augment.pad == 0
    assert build(options(tmp_path, min_area=1.0)).augment.pad == SIZE // 8


# How an image is shown


def shown(tmp_path: Path, name: str, image: Image.Image, **save: object) -> torch.Tensor:
    fill(tmp_path / "train", {"a": 1, "b": 1})
    fill(tmp_path / "val", {"b": 1})
    (tmp_path / "val" / "a").mkdir()
    image.save(tmp_path / "val" / "a" / name, **save)  # type: ignore[arg-type]
    return build(options(tmp_path)).test.images[0]


def transparent_palette() -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


@pytest.mark.parametrize(
    ("name", "image", "save", "expected"),
    [
        ("x.png", Image.new("L", (20, 20), 90), {}, (90, 90, 90)),
        ("x.png", Image.new("RGBA", (20, 20), (200, 100, 50, 0)), {}, (0, 0, 0)),
        ("x.png", Image.new("RGBA", (20, 20), (200, 100, 50, 255)), {}, (200, 100, 50)),
        ("x.png", Image.new("LA", (20, 20), (200, 0)), {}, (0, 0, 0)),
        ("x.png", transparent_palette(), {}, (200, 100, 50)),
        ("x.png", transparent_palette(), {"transparency": 1}, (0, 0, 0)),
        ("x.png", transparent_palette(), {"transparency": b"\xff\x00"}, (0, 0, 0)),
        ("x.png", Image.fromarray(np.full((20, 20), 0x5A00, np.uint16)), {}, (90, 90, 90)),
        ("x.png", Image.fromarray(np.full((20, 20), 0x5A00, np.uint16)), {"transparency": 0x1100}, (90, 90, 90)),
        ("x.png", Image.fromarray(np.full((20, 20), 0x5A00, np.uint16)), {"transparency": 0x5A00}, (0, 0, 0)),
        ("x.JPG", Image.new("CMYK", (20, 20), (0, 255, 255, 0)), {"format": "JPEG"}, (255, 0, 0)),
        ("x.bmp", Image.new("RGB", (20, 20), (1, 2, 3)), {}, (1, 2, 3)),
        ("x.webp", Image.new("RGB", (20, 20), (10, 200, 30)), {"lossless": True}, (10, 200, 30)),
    ],
    ids=[
        "gray",
        "clear",
        "opaque",
        "gray-clear",
        "palette",
        "palette-clear",
        "palette-bytes",
        "16-bit",
        "16-bit-opaque",
        "16-bit-clear",
        "cmyk",
        "bmp",
        "webp",
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, name: str, image: Image.Image, save: dict[str, object], expected: Sequence[int]
) -> None:
    pixel = shown(tmp_path, name, image, **save)[:, SIZE // 2, SIZE // 2].int()
    assert (pixel - torch.tensor(expected)).abs().max() <= 3


def test_the_camera_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = shown(tmp_path, "x.png", image, exif=exif)
    assert upright[:, SIZE // 2, -2].min() > 200
    assert upright[:, 1, 1].max() < 50


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_middle_is_shown(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    picture = shown(tmp_path, f"x.{suffix}", image).int()
    assert picture[2, :, 1:-1].min() > 200
    assert picture[0, :, 1:-1].max() < 60


# What is refused


def test_a_root_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"give --data\.root or --data PATH"):
        build(Options())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("size", 1025),
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("min_area", 0.0),
        ("min_area", 1.1),
        ("max_pixels", 0),
        ("max_pixels", 10**9),
        ("max_resident_gib", 0.0),
        ("train_per_class", 0),
        ("on_bad_image", 7),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} is {value}"):
        options(tmp_path, **{field: value})


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        build(options(tmp_path / "nowhere"))


def test_no_class_folders(tmp_path: Path) -> None:
    solid(tmp_path / "loose.png", (0, 0, 0))
    with pytest.raises(DataError, match="0 class folders and 1 images that are in none"):
        build(options(tmp_path))


def test_a_single_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 class folders, 2 or more"):
        build(options(fill(tmp_path, {"a": 4})))


def test_a_class_with_a_single_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b has 1 image"):
        build(options(fill(tmp_path, {"a": 4, "b": 1})))


def test_an_empty_class(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="c is empty; add images or remove it"):
        build(options(tmp_path))


def test_a_class_of_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4, "c/images": 4})
    with pytest.raises(DataError, match="c is only folders"):
        build(options(tmp_path))


def test_unknown_suffixes_are_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 0})
    for name in ("1.tif", "2.heic"):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"files of \.heic, \.tif only"):
        build(options(tmp_path))


def test_train_without_a_held_out_part(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    with pytest.raises(DataError, match=r"add one, or give .*train to have a part of it held out"):
        build(options(tmp_path))


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "val", {"a": 2, "z": 2})
    with pytest.raises(DataError, match="has class 'z', but"):
        build(options(tmp_path))


def test_too_much_memory_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "00.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"take .* GiB, but data\.max_resident_gib is 1e-06"):
        build(options(tmp_path, max_resident_gib=1e-6))


def damaged(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()[: len(stream.getvalue()) // 2]


@pytest.mark.parametrize("contents", [b"", b"GIF89a", damaged("PNG"), damaged("JPEG"), damaged("WEBP")])
def test_damaged_images_are_all_named(tmp_path: Path, contents: bytes) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    for path in (tmp_path / "a" / "02.png", tmp_path / "b" / "01.png"):
        path.write_bytes(contents)
    with pytest.raises(DataError, match=r"(1|2) of \d images cannot be read: .*0[12]\.png") as caught:
        build(options(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_damaged_images_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3})
    fill(tmp_path / "val", {"a": 2, "b": 2})
    for name in ("train/a/00.png", "train/b/02.png", "val/b/01.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"data\.on_bad_image is skip") as told:
        data = build(options(tmp_path, on_bad_image="skip"))
    assert ["2 of 6 train images" in str(told[0].message), "1 of 4 test images" in str(told[1].message)] == [True, True]
    # The next one stands in for the first, and the first sound one for the last.
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 0]
    assert torch.equal(data.train.images[[0, 5]], data.train.images[[1, 1]])
    assert data.test.labels.tolist() == [0, 0, 1]


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes whose header claims width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(6000, 6000), (10_000, 10_000), (100_000, 100_000)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "bomb.png").write_bytes(bomb(width, height))
    with pytest.raises(DataError, match=r"bomb\.png"):
        build(options(tmp_path))


def test_a_decoder_off_the_list_is_not_reached(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    Image.new("RGB", (20, 20)).save(tmp_path / "a" / "postscript.png", "EPS")
    with pytest.raises(DataError, match=r"postscript\.png"):
        build(options(tmp_path))


def test_recognises(tmp_path: Path) -> None:
    fill(tmp_path / "flat", {"a": 1, "b": 1})
    fill(tmp_path / "parts" / "train", {"a": 1})
    (tmp_path / "other" / "x").mkdir(parents=True)
    assert recognises(tmp_path / "flat") == "folder"
    assert recognises(tmp_path / "parts") == "folder"
    assert recognises(tmp_path / "other") is None
    assert recognises(tmp_path / "nowhere") is None
    assert recognises(tmp_path / "flat" / "a" / "00.png") is None
