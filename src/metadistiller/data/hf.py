"""Data sets of the Hugging Face hub, images of any size (extra `hf`).

    hf:NAME or hf:OWNER/NAME, with --data.config CONFIG where the data set has several

Of several held-out parts the first of val, valid, validation and test is taken; without one a share of each class is
held out, drawn by split_seed. The library `datasets` fetches the data set once, into its own cache, and maps it into
memory from there: the images stay encoded and are decoded when their turn comes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..config import require
from ..errors import DataError
from ._base import Dataset
from ._class_folders import HELD_OUT, TRAIN
from ._columns import LABELS, column, numbered
from ._encoded import image_column, ordered_classes, row_names
from ._hub import library, loaded
from ._listing import Listing, Part
from ._photos import DrawnOptions, parted, photographs

NAMES: dict[str, dict[str, object]] = {}
PATTERN = re.compile(r"hf:(?P<repository>.+)")

_REPOSITORY = re.compile(r"([\w.-]+/)?[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Options(DrawnOptions):
    """What may be set.

    Args:
        repository: NAME or OWNER/NAME on the hub; the name fixes it.
        config: of the configurations that the data set has; null where it has one.
        revision: branch, tag or commit on the hub; null for the newest.
        root: the cache of `datasets`; null for its usual place, which $HF_HOME moves.
        image_column: of the images; null for the only one, or a usual name (image, img, jpg, ...).
        label_column: of the classes, whole numbers or text; null for a usual name (label, class, target, ...), or the
            only one with names of classes.
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

    repository: str
    config: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            _REPOSITORY.fullmatch(self.repository) is not None,
            "the name of the data set on the hub",
            self.repository,
            "take hf:NAME or hf:OWNER/NAME, and one of its configurations as --data.config CONFIG",
        )


@dataclass(frozen=True)
class Encoded:
    """From 'hf:NAME train row 17' to its bytes, opened, or to its file; `columns` has each part's images."""

    columns: Mapping[str, Any]

    def __call__(self, name: str) -> str | BinaryIO:
        where, _, row = name.rpartition(" row ")
        (value,) = self.columns[where][int(row) - 1].values()
        encoded, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if encoded is not None:
            return io.BytesIO(encoded)
        if path is None:
            raise DataError("the row has neither bytes of an image nor a path")
        if not Path(path).is_file():
            raise DataError(f"the row has the path {path}, and no such file is here")
        return str(path)


def build(options: Options) -> Dataset:
    """The images by name; none is decoded unless bad ones are to be skipped.

    Raises: as listing.
    """
    return photographs(f"hf:{options.repository}", options, listing(options))


def listing(options: Options) -> Listing:
    """Raises: ConfigError without the library. DataError where the data set, its columns or labels are missing, or a
    class is too small or unknown to training.
    """
    found, commit = loaded(options.repository, options.config, revision=options.revision, cache=options.root)
    name = f"hf:{options.repository}" + (f" {options.config}" if options.config is not None else "")
    if TRAIN not in found:
        raise DataError(f"{name} has the parts {', '.join(found)}; one called {TRAIN} is needed: take another data set")
    other = next((part for part in HELD_OUT if part in found), None)
    parts = {f"{name} {part}": part for part in (TRAIN, other) if part is not None}
    labels, columns = {}, {}
    declared: Sequence[str] = ()
    for where, part in parts.items():
        rows = found[part]
        labels[part], names = _labels(rows, options, where)
        columns[where] = _images(rows, options, where)
        if part == TRAIN:
            declared = names
    classes = ordered_classes(labels[TRAIN], declared, where=name)
    encoded = Encoded(columns)
    photos = {
        part: Part(
            [f"{where} row {row + 1}" for row in range(len(labels[part]))],
            numbered(labels[part], classes, where=where),
            encoded,
        )
        for where, part in parts.items()
    }
    return parted(photos, classes, options, source=f"{name} at {commit}" if commit else f"{name} of the cache")


def _labels(rows: Any, options: Options, where: str) -> tuple[list[str], Sequence[str]]:
    """Each row's class by name, and the declared names; none there where there are none."""
    kind = library().ClassLabel
    named = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    there = rows.column_names
    wanted = options.label_column
    if wanted is None and len(named) == 1 and not any(name.strip().lower() in LABELS for name in there):
        wanted = named[0]
    found = column(there, wanted, LABELS, option="label_column", where=where)
    declared = tuple(rows.features[found].names) if found in named else ()
    values = rows.select_columns([found]).with_format(None)[:][found]
    return row_names(values, declared, where=where), declared


def _images(rows: Any, options: Options, where: str) -> Any:
    """The rows with their image alone, still encoded."""
    datasets = library()
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    wanted = options.image_column
    if wanted is None and len(pictures) == 1:
        wanted = pictures[0]
    found = image_column(rows.features.arrow_schema, wanted, where=where)
    alone = rows.select_columns([found]).with_format(None)
    return alone.cast_column(found, datasets.Image(decode=False)) if found in pictures else alone
