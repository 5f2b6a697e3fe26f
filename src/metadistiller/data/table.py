"""Your own photographs, listed in a table: a .csv, .tsv or .parquet file with a path and a label in each row.

    path,label                      or any other usual names of the two columns
    cats/1.jpg,cat                  relative to the folder of the table, or to data.images
    dogs/1.jpg,dog

What is held out is a second table (data.test), or the rows whose column `split` says so, or a share of each class.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ._base import Dataset
from ._class_folders import HELD_OUT, TRAIN
from ._columns import IMAGES, LABELS, class_names, column, numbered
from ._listing import Listing, Part
from ._photos import DrawnOptions, counted, photographs, with_held_out

NAMES: dict[str, dict[str, int]] = {"table": {}}

_SUFFIXES = (".csv", ".tsv", ".parquet")
_SPLITS = ("split",)


@dataclass(frozen=True, kw_only=True)
class Options(DrawnOptions):
    """What may be set.

    Args:
        root: the table; required.
        image_column: of the paths; null for a usual name (image, path, file, filename, ...).
        label_column: of the classes, text or whole numbers; null for a usual name (label, class, target, ...).
        split_column: of each row's part: train, or val, valid, validation or test; null for a column called split.
        test: the table of the held-out images; null where root has them all.
        images: the folder that paths are relative to; null for that of the table they stand in.
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
    split_column: str | None = None
    test: str | None = None
    images: str | None = None


def recognises(path: Path) -> str | None:
    """'table' where `path` is a .csv, .tsv or .parquet file with a column of a usual name that holds text."""
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        names = _text_columns(path)
        column(names, None, IMAGES, option="image_column", where=str(path))
    except DataError:
        return None
    return "table"


def build(options: Options) -> Dataset:
    """The images that the table lists, by name; none is opened unless bad ones are to be skipped.

    Raises: as listing.
    """
    return photographs("table", options, listing(options))


def listing(options: Options) -> Listing:
    """Raises: ConfigError without a table. DataError where it cannot be read, a column, a label or a file is missing
    (files may where bad images are skipped), or a class is too small or unknown to training.
    """
    if options.root is None:
        raise ConfigError("the data set 'table' needs to know which; give --data.root or --data FILE.csv")
    if options.test is not None and options.split_column is not None:
        raise ConfigError(
            f"data.test is {options.test} and data.split_column is {options.split_column}; only one of them can say "
            "what is held out"
        )
    path = Path(options.root).expanduser()
    table = _read(path)
    splits = None if options.test is not None else _split_column(path, table, options)
    if options.test is not None:
        held_out = Path(options.test).expanduser()
        parts = {TRAIN: (path, table), "test": (held_out, _read(held_out))}
    elif splits is not None:
        parts = {name: (path, rows) for name, rows in _by_split(path, table, splits).items()}
    else:
        parts = {TRAIN: (path, table)}
    labels = {name: _column(*part, options.label_column, LABELS, "label_column") for name, part in parts.items()}
    classes = class_names(labels[TRAIN], where=str(path))
    photos = {
        name: Part(_files(where, rows, options), numbered(labels[name], classes, where=str(where)))
        for name, (where, rows) in parts.items()
    }
    other = next((name for name in parts if name != TRAIN), None)
    if other is None:
        found = with_held_out(photos[TRAIN], classes, options, source=f"{path}")
    else:
        found = Listing(classes, photos[TRAIN], photos[other], f"{path} ({TRAIN} and {options.test or other})")
    return counted(found, options)


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, list[Any]]:
    """Columns by name. Raises: DataError."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give a table of paths and labels ({', '.join(_SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{path} is no {', '.join(_SUFFIXES)}; write the table as one of them")
    rows = _read_parquet(path) if suffix == ".parquet" else _read_text(path)
    if not any(rows.values()):
        raise DataError(f"{path} has no rows")
    return rows


def _text_columns(path: Path) -> list[str]:
    """Names of the columns that may hold paths. Raises: DataError where the file cannot be read."""
    if path.suffix.lower() != ".parquet":
        return _text_rows(path, 1)[0]
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_dictionary)
    return [field.name for field in schema if any(is_text(field.type) for is_text in text)]


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); write it again") from error
    return columns


def _read_text(path: Path) -> dict[str, list[Any]]:
    header, *rows = _text_rows(path)
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of one name: {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"{path} row {number + 1} has {len(row)} values, but there are {len(header)} columns")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _text_rows(path: Path, count: int | None = None) -> list[list[str]]:
    """The header and the rows below, without empty ones; the first `count` of them all."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            marks = "\t" if path.suffix.lower() == ".tsv" else ",;\t"
            # Spreadsheets of half the world write semicolons.
            mark = max(marks, key=header.count)
            file.seek(0)
            rows = []
            for row in csv.reader(file, delimiter=mark):
                if any(row):
                    rows.append([value.strip() for value in row])
                if len(rows) == count:
                    break
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of text in UTF-8 ({error})") from error
    if not rows:
        raise DataError(f"{path} is empty")
    return rows


# -- what stands in it ------------------------------------------------------------------------------------------------


def _column(
    path: Path, table: Mapping[str, list[Any]], wanted: str | None, usual: Sequence[str], option: str
) -> list[Any]:
    return table[column(list(table), wanted, usual, option=option, where=str(path))]


def _split_column(path: Path, table: Mapping[str, list[Any]], options: Options) -> list[Any] | None:
    """Each row's part as it stands there; None where no column says."""
    if options.split_column is None and not any(name.strip().lower() in _SPLITS for name in table):
        return None
    return _column(path, table, options.split_column, _SPLITS, "split_column")


def _by_split(path: Path, table: Mapping[str, list[Any]], splits: Sequence[Any]) -> dict[str, dict[str, list[Any]]]:
    """The rows of training and those of the first part that is held out. Raises: DataError where there are none."""
    said = [str(value).strip().lower() for value in splits]
    for row, (part, value) in enumerate(zip(said, splits, strict=True)):
        if part not in (TRAIN, *HELD_OUT):
            raise DataError(f"{path} row {row + 1} is of split {value!r}; take {TRAIN}, {', '.join(HELD_OUT)}")
    held_out = next((part for part in HELD_OUT if part in said), None)
    if held_out is None or TRAIN not in said:
        raise DataError(
            f"{path} has splits {', '.join(sorted(set(said)))} only; "
            f"{TRAIN} and one of {', '.join(HELD_OUT)} are needed"
        )
    return {
        part: {name: list(compress(values, [here == part for here in said])) for name, values in table.items()}
        for part in (TRAIN, held_out)
    }


def _files(path: Path, table: Mapping[str, list[Any]], options: Options) -> list[str]:
    """Raises: DataError where one is not there, unless bad images are to be skipped."""
    place = path.parent if options.images is None else Path(options.images).expanduser()
    given = _column(path, table, options.image_column, IMAGES, "image_column")
    for row, name in enumerate(given):
        if not isinstance(name, str) or not name:
            raise DataError(f"{path} row {row + 1} has {name!r} for a path; are the paths in another column?")
    files = [str(place / name) for name in given]
    if options.on_bad_image == "skip":
        return files
    missing = [(row, file) for row, file in enumerate(files) if not Path(file).is_file()]
    if missing:
        row, file = missing[0]
        raise DataError(
            f"{path} row {row + 1}: there is no file {file} (so it is with {len(missing)} of {len(files)} rows); "
            "give the folder that paths are relative to as --data.images, or remove the rows"
        )
    return files
