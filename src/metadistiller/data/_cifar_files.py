"""The two kinds of CIFAR, and their official versions; nothing is executed or unpacked to disk."""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ._resident import ImageSet

SIDE = 32  # pixels
_PIXELS = 3 * SIDE * SIDE  # bytes of an image: all red, then all green, then all blue
_LARGEST_FILE = 2**29  # bytes; the largest official one has 155 million

# fmt: off
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on


@dataclass(frozen=True)
class Official:
    """One of the two official versions.

    Attributes:
        archive: name of the .tar.gz.
        folder: what it unpacks to.
        train, test: files inside with the images.
        names: file inside with the names of the classes. Not read, since their order is fixed; but it tells
            the folder from another with files called train and test.
        label: of the python version, the key of the labels; of the binary one, the label's place in a record.
        label_bytes: of the binary version, the bytes before the pixels of a record.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label: str | int
    label_bytes: int = 0


@dataclass(frozen=True)
class Kind:
    """CIFAR-10 or CIFAR-100.

    Attributes:
        parquet_label: column of the label in the hub's parquet files.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    python: Official
    binary: Official
    parquet_label: str

    @property
    def num_classes(self) -> int:
        return len(self.classes)


KINDS = (
    Kind(
        name="cifar10",
        title="CIFAR-10",
        classes=_CIFAR10,
        python=Official(
            archive="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test=("test_batch",),
            names="batches.meta",
            label="labels",
        ),
        binary=Official(
            archive="cifar-10-binary.tar.gz",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test=("test_batch.bin",),
            names="batches.meta.txt",
            label=0,
            label_bytes=1,
        ),
        parquet_label="label",
    ),
    Kind(
        name="cifar100",
        title="CIFAR-100",
        classes=_CIFAR100,
        python=Official(
            archive="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            train=("train",),
            test=("test",),
            names="meta",
            label="fine_labels",
        ),
        binary=Official(
            archive="cifar-100-binary.tar.gz",
            folder="cifar-100-binary",
            train=("train.bin",),
            test=("test.bin",),
            names="fine_label_names.txt",
            label=1,
            label_bytes=2,
        ),
        parquet_label="fine_label",
    ),
)


def read_binary(path: Path, kind: Kind) -> tuple[ImageSet, ImageSet]:
    return _read_official(path, kind, kind.binary, _parse_binary)


def read_python(path: Path, kind: Kind) -> tuple[ImageSet, ImageSet]:
    return _read_official(path, kind, kind.python, _parse_python)


def _read_official(
    path: Path,
    kind: Kind,
    version: Official,
    parse: Callable[[str, bytes, Official], tuple[Tensor, Tensor]],
) -> tuple[ImageSet, ImageSet]:
    wanted = (*version.train, *version.test)
    stored = _from_archive(path, version.folder, wanted) if path.is_file() else _from_folder(path, wanted)
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; fetch {version.archive} again")

    def part(names: Sequence[str]) -> ImageSet:
        parsed = []
        for name in names:
            images, labels = parse(f"{path}: {name}", stored.pop(name), version)
            check_labels(f"{path}: {name}", labels, kind)
            parsed.append((images, labels))
        images, labels = (torch.cat(tensors) for tensors in zip(*parsed, strict=True))
        return ImageSet(images, labels)

    return part(version.train), part(version.test)


def _from_folder(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}); check its permissions") from error


def _from_archive(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The members `folder/name`, in memory; every other member is passed over."""
    wanted = {f"{folder}/{name}": name for name in names}
    stored = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name in wanted and member.isfile():
                    stored[wanted[member.name]] = _member(path, archive, member)
            # To the very end, where gzip's checksum of the whole archive stands.
            while stream.read(2**20):
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and fetch it again") from error
    return stored


def _member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_FILE:
        raise DataError(f"{path}: {member.name} claims {member.size:,} bytes; that is not CIFAR: fetch it again")
    stream = archive.extractfile(member)
    assert stream is not None, "a regular file has contents"
    contents = stream.read()
    if len(contents) != member.size:
        raise EOFError(f"{member.name} ends after {len(contents):,} of {member.size:,} bytes")
    return contents


def _parse_binary(where: str, contents: bytes, version: Official) -> tuple[Tensor, Tensor]:
    record = version.label_bytes + _PIXELS
    if not contents or len(contents) % record:
        raise DataError(
            f"{where} has {len(contents):,} bytes, which is no whole number of {record}-byte records; fetch it again"
        )
    records = torch.frombuffer(bytearray(contents), dtype=torch.uint8).view(-1, record)
    images = records[:, version.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    return images, records[:, int(version.label)].long()


def _parse_python(where: str, contents: bytes, version: Official) -> tuple[Tensor, Tensor]:
    fix = "fetch it again"
    try:
        batch = _ArraysOnly(where, contents).load()
    except DataError:
        raise
    # Damaged bytes make the unpickler raise nearly anything, so nothing narrower would do.
    except Exception as error:
        raise DataError(f"{where} is damaged ({type(error).__name__}: {error}); {fix}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{where} holds a {type(batch).__name__}, not a dictionary; {fix}")
    # Python 2 wrote the official files, so their keys are bytes.
    entries = {key.decode("latin-1") if isinstance(key, bytes) else key: batch[key] for key in batch}
    images, labels = entries.get("data"), entries.get(version.label)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
        raise DataError(f"{where} has no array 'data' of uint8 (N, {_PIXELS}); {fix}")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**63 for label in labels):
        raise DataError(f"{where} has no list {version.label!r} of whole numbers; {fix}")
    if len(labels) != len(images) or not labels:
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; {fix}")
    pixels = np.array(images, order="C").reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(pixels), torch.tensor(labels)


_NDARRAY = "numpy.ndarray"  # stands for the class, because a pickle cannot call a string


def _reconstruct(subtype: object, shape: object, kind: object) -> Any:
    """An empty array, which the pickle then fills: what numpy's own `_reconstruct` makes of an ndarray."""
    if subtype != _NDARRAY:
        raise pickle.UnpicklingError(f"an array of class {subtype}")
    return np.empty(0, dtype=np.uint8)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 spells bytes in Python 2's protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and arrays; whatever names anything else is refused."""

    def __init__(self, where: str, contents: bytes) -> None:
        super().__init__(io.BytesIO(contents), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"{self._where} asks for {module}.{name}, which no CIFAR file needs and which could run a "
                "program; do not use this copy, fetch the official one"
            )
        return _ALLOWED[module, name]


def check_labels(where: str, labels: Tensor, kind: Kind) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= kind.num_classes:
        raise DataError(
            f"{where} has labels from {low} to {high}, but {kind.title} has 0 to {kind.num_classes - 1}; fetch it again"
        )
