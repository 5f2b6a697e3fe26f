"""Chunks of litdata (index.json and chunk-*.bin), read by index: images of any size, as many as the disk holds.

    FOLDER/train/index.json and FOLDER/val/index.json    or valid, validation or test, the first that is there
    FOLDER/train/index.json alone, or FOLDER/index.json  a share of each class is held out, drawn by split_seed

An item is a dict or a tuple with an image (encoded bytes, a Pillow image, a uint8 tensor or array) and a label (int or
str). The labels are read in one pass before the run, which looks at some bytes of each item and at none of its pixels;
the images stay in their chunks and are decoded when their turn comes. Nothing that is read is executed: pickled items
are refused by what the index says of them, and compressed or encrypted chunks too. litdata itself is not needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError, DataError
from ._base import Dataset
from ._chunks import INDEX, Chunk, Index, read_chunk, read_index
from ._class_folders import HELD_OUT, TRAIN
from ._columns import IMAGES, LABELS, as_names, class_names, column, numbered
from ._leaves import image_reader
from ._listing import Listing, Part
from ._photos import DrawnOptions, parted, photographs

NAMES: dict[str, dict[str, int]] = {"stream": {}}

_TUPLE = ("0", "1")  # an item (image, label) by its places
_LABEL_KINDS = ("int", "str", "text")


@dataclass(frozen=True, kw_only=True)
class Options(DrawnOptions):
    """What may be set.

    Args:
        root: the folder; required.
        image_column: key of the image in an item, OUTER.INNER for one inside another; null for a usual name (image,
            img, jpg, ...), and for the first of a tuple.
        label_column: key of the label; null for a usual name (label, class, target, ...), and for the second of a
            tuple.
        size: pixels of a side of the square that the network is shown, 8 to 1024.
        resize: pixels of the short side in evaluation, before the middle is cut out; at least size.
        min_area: smallest share of the image's area in a random resized crop of training, above 0 to 1.
        train_per_class: so many training images of each class; null for all.
        split_seed: of the held-out part where the data has none, and of train_per_class.
        val_fraction: share of each class that is held out where the data has no such part, in (0, 1).
        workers: threads that read and decode, >= 1; null for one a processor core. They change no bit.
        max_pixels: the largest image that is decoded; a decompressed image takes 3 bytes a pixel.
        on_bad_image: "error" stops at an image that cannot be read, when its turn comes; "skip" decodes all of them
            once before, and leaves such images out of the test set; in training the next sound one takes the place.
    """

    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Stored:
    """From 'FOLDER/chunk-0-0.bin item 17' to its image, opened; the file is opened anew, so threads share nothing."""

    chunks: Mapping[str, Chunk]
    readers: Mapping[str, Callable[[bytes], BinaryIO]]

    def __call__(self, name: str) -> BinaryIO:
        path, _, item = name.rpartition(" item ")
        chunk, number = self.chunks[path], int(item) - 1
        start, size = int(chunk.start[number]), int(chunk.size[number])
        if size < 0:
            raise DataError("the item has no bytes of an image")
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise DataError("the chunk is shorter than it was")
        return self.readers[path](data)


def recognises(path: Path) -> str | None:
    """'stream' where an index and chunks of litdata lie in `path`, or in its train/."""
    for folder in (path, path / TRAIN):
        if (folder / INDEX).is_file() and next(folder.glob("chunk-*.bin"), None) is not None:
            return "stream"
    return None


def build(options: Options) -> Dataset:
    """The images of the chunks, by name; none is decoded unless bad ones are to be skipped.

    Raises: as listing.
    """
    return photographs("stream", options, listing(options))


def listing(options: Options) -> Listing:
    """Raises: ConfigError without a root. DataError where index or chunks are missing, damaged or pickled, an item has
    no image or label, or a class is too small or unknown to training.
    """
    if options.root is None:
        raise ConfigError("the data set 'stream' needs to know where it is; give --data.root or --data PATH")
    root = Path(options.root).expanduser()
    chunks: dict[str, Chunk] = {}
    readers: dict[str, Callable[[bytes], BinaryIO]] = {}
    labels: dict[str, dict[str, list[str]]] = {}
    for part, folder in _parts(root).items():
        index = read_index(folder)
        image, label, reader = _values(index, options)
        labels[part] = {}
        for name in index.chunks:
            path = str(folder / name)
            chunks[path] = read_chunk(index, name, image=image, label=label)
            readers[path] = reader
            labels[part][path] = as_names(chunks[path].labels, where=path)
    classes = class_names(list(chain.from_iterable(labels[TRAIN].values())), where=str(root))
    stored = Stored(chunks, readers)
    photos = {part: _part(found, classes, stored) for part, found in labels.items()}
    return parted(photos, classes, options, source=f"{root}")


def _part(labels: Mapping[str, Sequence[str]], classes: Sequence[str], stored: Stored) -> Part:
    return Part(
        [f"{path} item {item + 1}" for path, names in labels.items() for item in range(len(names))],
        [label for path, names in labels.items() for label in numbered(names, classes, where=path)],
        stored,
    )


def _parts(root: Path) -> dict[str, Path]:
    """The folder of training, and that of the first held-out part that is there. Raises: DataError where is none."""
    there = [name for name in (TRAIN, *HELD_OUT) if (root / name / INDEX).is_file()]
    if TRAIN in there:
        return {name: root / name for name in there[:2]}
    if (root / INDEX).is_file():
        return {TRAIN: root}
    raise DataError(f"{root} has no {INDEX} of litdata, and its {TRAIN}/ has none; give the folder that it wrote")


def _values(index: Index, options: Options) -> tuple[str, str, Callable[[bytes], BinaryIO]]:
    """Names of image and label in an item, and how the image is read. Raises: DataError where there are none."""
    where, kinds = str(index.path), index.kinds
    first, second = _TUPLE if tuple(kinds)[:2] == _TUPLE else (None, None)
    image = column(list(kinds), options.image_column or first, IMAGES, option="image_column", where=where)
    label = column(list(kinds), options.label_column or second, LABELS, option="label_column", where=where)
    reader = image_reader(kinds[image])
    if reader is None:
        raise DataError(
            f"{where}: {image!r} is of the kind {kinds[image]}, which is no image; say which is with "
            "--data.image_column"
        )
    if kinds[label] not in _LABEL_KINDS:
        raise DataError(
            f"{where}: {label!r} is of the kind {kinds[label]}; labels are {', '.join(_LABEL_KINDS)}: write the set "
            "again with int(label), or say which is with --data.label_column"
        )
    return image, label, reader
