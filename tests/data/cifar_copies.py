"""Tiny made-up copies of CIFAR, in every layout."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from metadistiller.data._cifar_files import KINDS
from metadistiller.data.cifar import Options

KIND = {kind.name: kind for kind in KINDS}
NAMES = tuple(KIND)
PER_CLASS = 5  # training images; one for each of the five batches of CIFAR-10
Part = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def made_up(name: str) -> tuple[Part, Part]:
    """Noise (N, 3072) and labels (N,), training and test."""
    draw = np.random.default_rng(0)
    classes = KIND[name].num_classes

    def part(per_class: int) -> Part:
        labels = draw.permutation(np.repeat(np.arange(classes), per_class))
        return draw.integers(0, 256, (len(labels), 3072), dtype=np.uint8), labels

    return part(PER_CLASS), part(1)


def files(name: str, part: str) -> dict[str, Part]:
    """The images of each official file, without its suffix."""
    train, test = made_up(name)
    if name == "cifar100":
        return {"train": train} if part == "train" else {"test": test}
    if part == "test":
        return {"test_batch": test}
    pairs = zip(np.split(train[0], 5), np.split(train[1], 5), strict=True)
    return {f"data_batch_{number}": pair for number, pair in enumerate(pairs, start=1)}


def write_python(folder: Path, name: str) -> None:
    key = "fine_labels" if name == "cifar100" else "labels"
    for part in ("train", "test"):
        for file, (pixels, labels) in files(name, part).items():
            batch = {b"data": pixels, key.encode(): labels.tolist(), b"filenames": [b"x.png"] * len(labels)}
            (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / KIND[name].python.names).write_bytes(b"")


def write_binary(folder: Path, name: str) -> None:
    for part in ("train", "test"):
        for file, (pixels, labels) in files(name, part).items():
            columns = [labels[:, None].astype(np.uint8), pixels]
            if name == "cifar100":
                columns.insert(0, np.full((len(labels), 1), 19, np.uint8))
            (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
    (folder / KIND[name].binary.names).write_text("\n".join(KIND[name].classes))


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, images: list[bytes | None], labels: list[int], **changes: Any) -> None:
    given = {"image_column": "img", "label_column": "fine_label", "names": KIND["cifar100"].classes} | changes
    cells = [{"bytes": image, "path": None} for image in images]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {given["image_column"]: pyarrow.array(cells, struct), given["label_column"]: pyarrow.array(labels)}
    )
    if given["names"]:
        features = {given["label_column"]: {"names": given["names"], "_type": "ClassLabel"}}
        entry = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": entry})
    pyarrow.parquet.write_table(table, path)


def write_parquet(folder: Path, name: str, **changes: Any) -> None:
    train, test = made_up(name)
    middle = len(train[1]) // 2
    shards = {
        "train-00000-of-00002": (train[0][:middle], train[1][:middle]),
        "train-00001-of-00002": (train[0][middle:], train[1][middle:]),
        "test-00000-of-00001": test,
    }
    column = {"label_column": KIND[name].parquet_label, "names": KIND[name].classes} | changes
    for file, (pixels, labels) in shards.items():
        write_table(folder / f"{file}.parquet", [png(image) for image in pixels], labels.tolist(), **column)


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(folder, folder.name)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "python": write_python,
    "binary": write_binary,
    "parquet": write_parquet,
}
LAYOUTS = ("python", "binary", "parquet", "python archive", "binary archive")


def write(place: Path, name: str, layout: str) -> Path:
    """A copy inside `place`; its archive or folder."""
    version, _, packed = layout.partition(" ")
    official = {"python": KIND[name].python.folder, "binary": KIND[name].binary.folder}
    folder = place / official.get(version, name)
    folder.mkdir(parents=True)
    WRITERS[version](folder, name)
    if not packed:
        return folder
    archive = place / getattr(KIND[name], version).archive
    pack(folder, archive)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return archive


def options(name: str, root: Path | None, **given: Any) -> Options:
    text = None if root is None else str(root)
    return Options(num_classes=KIND[name].num_classes, root=text, **given)
