"""Chunks of litdata: the same pixels as files, however an image was stored, and nothing of a stranger's is run."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from litdata.streaming.writer import BinaryWriter
from PIL import Image

from metadistiller import recipe
from metadistiller.data import folder
from metadistiller.data.stream import Options, build, listing, recognises
from metadistiller.errors import ConfigError, DataError
from metadistiller.settings import parse

from .noise import LABELS, PICTURES, SIZE, png

# How an image may be stored; the bits are the same in every one.
FORMS: dict[str, Callable[[Image.Image], Any]] = {
    "bytes": png,
    "pil": lambda image: image,
    "tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "array": np.array,
}
SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda image, label: {"image": image, "label": label},
    "reversed": lambda image, label: {"label": label, "image": image},
    "tuple": lambda image, label: (image, label),
}


def write(place: Path, items: list[Any], **given: Any) -> Path:
    """A small set of litdata's own writer, several chunks."""
    writer = BinaryWriter(str(place), **{"chunk_size": 4, **given})
    for number, item in enumerate(items):
        writer[number] = item
    writer.done()
    writer.merge()
    return place


def samples(form: str = "bytes", shape: str = "dict", labels: list[Any] = LABELS) -> list[Any]:
    return [SHAPES[shape](FORMS[form](image), label) for image, label in zip(PICTURES, labels, strict=True)]


def options(root: Path, **given: Any) -> Options:
    return Options(**{"root": str(root), "size": SIZE, "resize": SIZE, "workers": 1, **given})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The same images as class folders."""
    for number, (image, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


# Laws


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_pixels_as_a_folder_of_classes(
    tmp_path: Path, photos: Path, form: str, shape: str, workers: int
) -> None:
    ours = build(options(write(tmp_path / "set", samples(form, shape)), workers=workers))
    theirs = folder.build(folder.Options(root=str(photos), size=SIZE))
    assert ours.classes == theirs.classes == ("cat", "dog")
    for mine, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.pixels(torch.arange(len(other))), other.pixels(torch.arange(len(other))))


def test_jpeg_files_are_stored_as_they_are(tmp_path: Path) -> None:
    items = []
    for number, (image, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        image.save(tmp_path / f"{number}.jpg")
        items.append({"image": Image.open(tmp_path / f"{number}.jpg"), "label": label})
    root = write(tmp_path / "set", items)
    for item in items:
        item["image"].close()
    found = listing(options(root))
    for name in found.train.paths:
        number = 4 * int(name.split("chunk-0-")[1][0]) + int(name.rpartition(" ")[2]) - 1
        opened = found.train.opened(name)
        assert isinstance(opened, io.BytesIO)
        assert opened.read() == (tmp_path / f"{number}.jpg").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_item_once_in_the_order_of_the_chunks(tmp_path: Path, form: str) -> None:
    write(tmp_path / "train", samples(form))
    write(tmp_path / "val", samples(form))
    data = build(options(tmp_path))
    files = [f"{tmp_path}/val/chunk-0-{number // 4}.bin item {number % 4 + 1}" for number in range(10)]
    assert data.test.paths == files  # type: ignore[attr-defined]
    for batch in (torch.arange(10), torch.arange(9, -1, -1)):
        shown = data.test.pixels(batch).permute(0, 2, 3, 1).numpy()
        for number, pixels in zip(batch.tolist(), shown, strict=True):
            assert np.array_equal(pixels, np.array(PICTURES[number]))


def test_reading_changes_nothing_on_the_disk(tmp_path: Path) -> None:
    root = write(tmp_path / "set", samples())
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    build(options(root)).train.pixels(torch.arange(8))
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_a_folder_is_recognised_by_its_index(tmp_path: Path, held_out: str) -> None:
    assert recognises(tmp_path) is None
    write(tmp_path / "train", samples())
    later = ["val", "valid", "validation", "test"]
    for part in later[later.index(held_out) :]:
        write(tmp_path / part, samples())
    config = parse(["--data", str(tmp_path)], command="train").config
    assert (config.data.name, config.epochs) == ("stream", recipe("stream").epochs)
    found = listing(options(tmp_path))
    assert found.source == f"{tmp_path} (train and {held_out}); 10 + 10 images"
    assert listing(options(tmp_path / "train")).source.endswith("by seed 0; 8 + 2 images")


def test_numbers_are_classes_by_size_and_values_are_named(tmp_path: Path) -> None:
    items = [{"id": n, "shot": png(image), "kind": n % 5 * 3} for n, image in enumerate(PICTURES)]
    root = write(tmp_path / "set", items)
    assert build(options(root, image_column="shot", label_column="kind")).classes == ("0", "3", "6", "9", "12")
    with pytest.raises(DataError, match=r"no column of a usual name .*'id', 'shot', 'kind': .*--data\.image_column"):
        build(options(root))


@pytest.mark.parametrize("form", FORMS)
def test_values_inside_others(tmp_path: Path, form: str) -> None:
    items = [{"data": {"image": FORMS[form](image)}, "label": n % 2} for n, image in enumerate(PICTURES)]
    data = build(options(write(tmp_path / "set", items), image_column="data.image"))
    assert len(data.train.pixels(torch.arange(8)).flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((SIZE, SIZE), np.uint8), None),
        (np.zeros((SIZE, SIZE, 4), np.uint8), None),
        (np.zeros((3, SIZE, SIZE), np.uint8), None),
        (torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8), None),
        (torch.zeros(3, SIZE, SIZE), "take uint8"),
        (np.zeros((SIZE, SIZE, 5), np.uint8), r"the shape \(16, 16, 5\) is no image"),
        (np.zeros((2, 2, SIZE, SIZE), np.uint8), r"the shape \(2, 2, 16, 16\) and"),
        (Image.new("1", (SIZE, SIZE)), "of Pillow's mode 1; L, LA, RGB, RGBA are read"),
    ],
)
def test_what_raw_pixels_may_be(tmp_path: Path, array: Any, told: str | None) -> None:
    data = build(options(write(tmp_path / "set", [(array, number % 2) for number in range(6)])))
    if told is None:
        assert not data.train.pixels(torch.arange(4)).any()
    else:
        with pytest.raises(DataError, match=f"chunk-0-.*item . cannot be read .*{told}"):
            data.train.pixels(torch.arange(4))


def test_litdata_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path / "set", samples())
    code = (
        "import sys; from metadistiller.data.stream import Options, build\n"
        f"data = build(Options(root={str(tmp_path / 'set')!r}))\n"
        "print(len(data.train), 'litdata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8", "False"]


# Nothing of a stranger's is executed


class Canary:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["image", "label", "more"])
def test_a_pickle_is_refused_before_it_is_read(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    items = [{"image": PICTURES[n], "label": n % 2} | {place: Canary(canary)} for n in range(4)]
    root = write(tmp_path / "set", items)
    assert "pickle" in json.loads((root / "index.json").read_text())["config"]["data_format"]
    with pytest.raises(DataError, match=r"index\.json: an item holds a pickle, which may run code.*int\(label\)"):
        build(options(root))
    assert not canary.exists()


def test_a_pickle_that_is_called_something_else_stays_bytes(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    root = write(tmp_path / "set", [(Canary(canary), n % 2) for n in range(6)])
    index = (root / "index.json").read_text()
    for kind in ("bytes", "jpeg", "pil", "tensor", "numpy", "image:png", "file:pkl"):
        (root / "index.json").write_text(index.replace('"pickle"', f'"{kind}"'))
        with pytest.raises(DataError, match="cannot be read"):
            build(options(root)).train.pixels(torch.arange(4))
    assert not canary.exists()


# What is refused


def test_a_place_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --data\.root or --data PATH"):
        build(Options())
    with pytest.raises(DataError, match=r"has no index\.json of litdata"):
        build(options(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"chunks": [], "config": null}', '{"chunks": 3, "config": {}}', "[" * 100_000],
)
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    root = write(tmp_path / "set", samples())
    (root / "index.json").write_text(text)
    assert recognises(root) == "stream"
    with pytest.raises(DataError, match=r"index\.json is no index of litdata .*is it damaged"):
        build(options(root))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": {"compression": "zstd"}}, "compression is 'zstd'; write the set again without it"),
        ({"config": {"ipc_compression": "lz4"}}, "ipc_compression is 'lz4'"),
        ({"config": {"encryption": {"algorithm": "rsa"}}}, "encryption is"),
        ({"config": {"item_loader": "TokensLoader"}}, "is of litdata's TokensLoader"),
        ({"config": {"data_format": ["bytes"]}}, "names 2 values of an item, but has 1 kinds"),
        ({"config": {"data_format": ["float", "str"]}}, "'image' is of the kind float, which is no image"),
        ({"config": {"data_format": ["bytes", "tensor"]}}, r"'label' is of the kind tensor; .*int\(label\)"),
        ({"config": {"data_spec": '[1, {"type": "os.system"}]'}}, "is no index of litdata"),
        ({"chunks": []}, "has no chunks"),
        ({"chunks": [{"filename": "../x.bin", "chunk_size": 1}]}, r"has the chunk '\.\./x\.bin' of 1 items"),
        ({"chunks": [{"filename": "chunk-0-0.bin", "chunk_size": 4}] * 2}, "or one of them twice"),
        ({"chunks": [{"filename": "chunk-0-0.bin", "chunk_size": 3}]}, "missing or damaged .*4 items in place of 3"),
        ({"chunks": [{"filename": "chunk-0-9.bin", "chunk_size": 4}]}, r"chunk-0-9\.bin is missing or damaged"),
    ],
)
def test_an_index_that_cannot_be_meant(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    root = write(tmp_path / "set", samples())
    index = json.loads((root / "index.json").read_text())
    for key, value in change.items():
        index[key] = index[key] | value if isinstance(value, dict) else value
    (root / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=told):
        build(options(root))


@pytest.mark.parametrize("form", ["bytes", "pil"])
def test_a_chunk_that_is_cut_or_changed_is_an_error_of_its_own(tmp_path: Path, form: str) -> None:
    root = write(tmp_path / "set", samples(form))
    chunk = root / "chunk-0-1.bin"
    whole = chunk.read_bytes()
    for length in (*range(0, 64, 3), len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"chunk-0-1\.bin is missing or damaged"):
            build(options(root))
    draw = np.random.default_rng(0)
    outcomes = []
    for _ in range(200):
        changed = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            changed[place] ^= 1 << int(draw.integers(8))
        chunk.write_bytes(changed)
        try:
            data = build(options(root))
            data.train.pixels(torch.arange(len(data.train)))
            outcomes.append("other pixels or labels")
        except DataError:
            outcomes.append("refused")
    assert len(outcomes) == 200
    assert "refused" in outcomes


def test_a_bad_image_is_named_by_its_item(tmp_path: Path) -> None:
    items = samples()
    items[5]["image"] = b"x"
    write(tmp_path / "train", items)
    write(tmp_path / "test", samples())
    with pytest.raises(DataError, match=r"train/chunk-0-1\.bin item 2 cannot be read"):
        build(options(tmp_path)).train.pixels(torch.arange(10))
    with pytest.warns(UserWarning, match=r"train/chunk-0-1\.bin item 2 cannot be read"):
        assert len(build(options(tmp_path, on_bad_image="skip")).train) == 10
