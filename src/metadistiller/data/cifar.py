"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), from any copy that is at hand, else downloaded.

A copy is the official python or binary version, packed or unpacked, or the hub's parquet files.
Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import download_url

from ..config import require
from ..errors import DataError
from ._base import Augment, Dataset, channel_statistics, few_shot
from ._cifar_files import KINDS, Kind, Official, read_binary, read_python
from ._cifar_parquet import parquet_objection, read_parquet
from ._resident import ImageSet

NAMES = {"cifar10": {"num_classes": 10}, "cifar100": {"num_classes": 100}}

ENVIRONMENT = "METADISTILLER_DATA"
_CACHE = Path("~/.cache/metadistiller")
_OFFICIAL: dict[str, Any] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_VERSIONS = [version for kind in KINDS for version in (kind.python, kind.binary)]
_ARCHIVES = {version.archive for version in _VERSIONS}
_FOLDERS = {version.folder for version in _VERSIONS}
_MANY = 200  # folders in one place: these are classes of photographs, of which a million files would have to be listed


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be set.

    Args:
        num_classes: 10 or 100; the name of the data set says it.
        root: a copy, or a folder with a copy inside; null searches $METADISTILLER_DATA, ./data, the current
            folder and ~/.cache/metadistiller.
        train_per_class: so many training images of each class; null for all.
        split_seed: of train_per_class.
        download: whether to fetch the official archive (about 160 MiB) where root is null and no copy found.
    """

    num_classes: int = 100
    root: str | None = None
    train_per_class: int | None = None
    split_seed: int = 0
    download: bool = True

    def __post_init__(self) -> None:
        require(self.num_classes in (10, 100), "data.num_classes", self.num_classes, "take 10 or 100")
        require(
            self.train_per_class is None or self.train_per_class >= 1,
            "data.train_per_class",
            self.train_per_class,
            "take 1 or more, or null",
        )


@dataclass(frozen=True)
class Copy:
    """A copy that was found; `read` gives its training and test images.

    Attributes:
        layout: its name, for the record.
        path: the archive, or the folder of the files.
    """

    kind: Kind
    layout: str
    path: Path
    reader: Callable[[Path, Kind], tuple[ImageSet, ImageSet]]

    def read(self) -> tuple[ImageSet, ImageSet]:
        """Raises: DataError where a file is missing or damaged."""
        return self.reader(self.path, self.kind)


def copy_at(path: Path, kind: Kind) -> Copy | None:
    """The copy of `kind` that `path` itself is: an archive by its name, a folder by its files."""
    if path.is_file():
        if path.name == kind.binary.archive:
            return Copy(kind, "binary version", path, read_binary)
        if path.name == kind.python.archive:
            return Copy(kind, "python version", path, read_python)
    elif path.is_dir():
        if _is_unpacked(path, kind.binary):
            return Copy(kind, "binary version", path, read_binary)
        if _is_unpacked(path, kind.python):
            return Copy(kind, "python version", path, read_python)
        if parquet_objection(path, kind) is None:
            return Copy(kind, "parquet", path, read_parquet)
    return None


def _is_unpacked(folder: Path, version: Official) -> bool:
    # By its name even where files are missing: the reader then says which.
    return folder.name == version.folder or all(
        (folder / name).is_file() for name in (*version.train, *version.test, version.names)
    )


def recognises(path: Path) -> str | None:
    """'cifar10' or 'cifar100' where `path` is a copy, or a folder with copies of one of them; else None."""
    for places in ([path], list(_candidates(path))):
        found = [kind.name for kind in KINDS if any(copy_at(place, kind) for place in places)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def build(options: Options) -> Dataset:
    """The official training and test images; 50,000 and 10,000 of them where the copy is complete.

    Raises: DataError where there is no copy, or the one found is damaged.
    """
    kind = next(kind for kind in KINDS if kind.num_classes == options.num_classes)
    found = _find(kind, options)
    train, test = found.read()
    # Of the whole training set, so that a few-shot study sees the same pixels as the full one.
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=kind.name,
        train=few_shot(train, options.train_per_class, seed=options.split_seed, classes=kind.classes),
        test=test,
        classes=kind.classes,
        mean=mean,
        std=std,
        augment=Augment(pad=4, flip=True),
        source=f"{found.path} ({found.layout}, {len(train):,} + {len(test):,} images)",
    )


def _find(kind: Kind, options: Options) -> Copy:
    if options.root is not None:
        root = Path(options.root).expanduser()
        found = _search(root, kind)
        if found is None:
            raise DataError(f"no copy of {kind.title} in {_described(root)}{_near(root, kind)}; {_accepted(kind)}")
        return found
    places = [Path("data"), Path(), _CACHE.expanduser()]
    if named := os.environ.get(ENVIRONMENT):
        places.insert(0, Path(named).expanduser())
    for place in places:
        if found := _search(place, kind):
            return found
    reason = _download(kind, places[-1]) if options.download else "data.download is false"
    if reason is None:
        return Copy(kind, "python version", places[-1] / kind.python.archive, read_python)
    raise DataError(
        f"no copy of {kind.title} in {', '.join(map(_described, places))}, and it was not downloaded: "
        f"{reason}; {_accepted(kind)}, then give its path as --data.root, or as ${ENVIRONMENT}"
    )


def _search(place: Path, kind: Kind) -> Copy | None:
    """The copy at `place`, inside it, or one level further down."""
    return next((found for path in _candidates(place) if (found := copy_at(path, kind))), None)


def _candidates(place: Path) -> Iterator[Path]:
    yield place
    inside = _entries(place)
    yield from inside
    for entry in inside:
        below = _entries(entry)
        # A folder under a name of its own must be listed before it is known to hold no parquet files.
        yield from below if len(below) <= _MANY else [path for path in below if path.name in _ARCHIVES | _FOLDERS]


def _entries(folder: Path) -> list[Path]:
    """The folders inside, and the files that are called as an official archive."""
    # The search passes through folders that are none of its business; what it may not read holds no copy.
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name in _ARCHIVES or entry.is_dir()]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _described(place: Path) -> str:
    if not place.exists():
        return f"{place.absolute()} (does not exist)"
    return f"{place.absolute()}" if os.access(place, os.R_OK) else f"{place.absolute()} (cannot be read)"


def _near(root: Path, kind: Kind) -> str:
    """What speaks against parquet files that are there, but are not taken."""
    folders = [path for path in _candidates(root) if any(path.glob("train-*.parquet"))]
    objections = [parquet_objection(folder, kind) for folder in folders]
    return f" ({'; '.join(filter(None, objections))})" if folders else ""


def _accepted(kind: Kind) -> str:
    return (
        f"put one of these there: {kind.python.archive} or its folder {kind.python.folder}/, "
        f"{kind.binary.archive} or its folder {kind.binary.folder}/ "
        "(from https://www.cs.toronto.edu/~kriz/cifar.html), or a folder with train-*.parquet and "
        f"test-*.parquet (from https://huggingface.co/datasets/uoft-cs/{kind.name})"
    )


def _download(kind: Kind, cache: Path) -> str | None:
    """Fetch the official python version into `cache`. Returns: why it failed, None where it did not."""
    official = _OFFICIAL[kind.name]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A download that breaks off must not look like a copy to the next search.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as partial:
            download_url(official.url, partial, kind.python.archive, official.tgz_md5)
            os.replace(Path(partial, kind.python.archive), cache / kind.python.archive)
    # URLError is an OSError; a wrong checksum is torchvision's RuntimeError.
    except (OSError, RuntimeError, HTTPException) as error:
        return f"{official.url} cannot be fetched ({error})"
    return None
