"""Hugging Face parquet files of images of any size: one file, or a folder of train-*.parquet and test-*.parquet.

    FOLDER/train-*.parquet and FOLDER/test-*.parquet    or in FOLDER/data/; val, valid, validation or test
    FOLDER/train-*.parquet alone, or FILE.parquet       a share of each class is held out, drawn by split_seed

Of several held-out parts the first of val, valid, validation and test is taken. A column holds the encoded images
({bytes, path} or plain bytes) and one the labels. The images are copied once, still encoded, to a temporary file that
is mapped into memory, so they may be more than fit there; $TMPDIR says where.
"""

import io
import mmap
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ConfigError, DataError
from ._base import Dataset
from ._class_folders import HELD_OUT, TRAIN
from ._columns import LABELS, column, numbered
from ._encoded import image_column, ordered_classes, row_names
from ._listing import Listing, Part
from ._parquet_files import check_complete, declared_names, opened
from ._photos import DrawnOptions, parted, photographs

NAMES: dict[str, dict[str, int]] = {"parquet": {}}

_ROWS = 256  # that are copied at a time


@dataclass(frozen=True, kw_only=True)
class Options(DrawnOptions):
    """What may be set.

    Args:
        root: the folder or file; required.
        image_column: of the encoded images; null for a usual name (image, img, jpg, ...).
        label_column: of the classes, whole numbers or text; null for a usual name (label, class, target, ...).
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
class Encoded:
    """From 'FILE.parquet row 17' to its bytes, opened; `columns` has each file's images in memory that is mapped."""

    columns: Mapping[str, Any]

    def __call__(self, name: str) -> BinaryIO:
        where, _, row = name.rpartition(" row ")
        encoded = self.columns[where][int(row) - 1]
        if not encoded.is_valid:
            raise DataError("the row has no bytes of an image")
        return io.BytesIO(encoded.as_buffer())


def recognises(path: Path) -> str | None:
    """'parquet' where `path` is such a file or folder; a table of paths is not."""
    try:
        first = next(iter(_parts(path).get(TRAIN, [])), None)
        if first is None:
            return None
        with opened(first) as file:
            image_column(file.schema_arrow, None, where=str(first))
    except DataError:
        return None
    return "parquet"


def build(options: Options) -> Dataset:
    """The images of the files, by name; none is decoded unless bad ones are to be skipped.

    Raises: as listing.
    """
    return photographs("parquet", options, listing(options))


def listing(options: Options) -> Listing:
    """Raises: ConfigError without a root. DataError where files, columns or labels are missing, or a class is too small
    or unknown to training.
    """
    if options.root is None:
        raise ConfigError("the data set 'parquet' needs to know where it is; give --data.root or --data PATH")
    root = Path(options.root).expanduser()
    parts = _parts(root)
    if TRAIN not in parts:
        raise DataError(f"{root} is no .parquet file, and no train-*.parquet lie in it or its data/; give one of them")
    if root.is_dir():
        for files in parts.values():
            check_complete(files)
    everything = [path for files in parts.values() for path in files]
    names, orders = {}, {}
    for path in everything:
        names[path], orders[path] = _labels(path, options)
    training = list(chain.from_iterable(names[path] for path in parts[TRAIN]))
    declared = list(dict.fromkeys(chain.from_iterable(orders[path] for path in parts[TRAIN])))
    classes = ordered_classes(training, declared, where=str(root))
    encoded = Encoded(_images(everything, options))
    photos = {
        part: Part(
            [f"{path} row {row + 1}" for path in files for row in range(len(names[path]))],
            [label for path in files for label in numbered(names[path], classes, where=str(path))],
            encoded,
        )
        for part, files in parts.items()
    }
    return parted(photos, classes, options, source=f"{root}")


def _parts(root: Path) -> dict[str, list[Path]]:
    """The files of training, and those of the first held-out part that is there."""
    if root.is_file():
        return {TRAIN: [root]} if root.suffix.lower() == ".parquet" else {}
    for folder in (root, root / "data"):
        found = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in (TRAIN, *HELD_OUT)}
        if found[TRAIN]:
            other = next((part for part in HELD_OUT if found[part]), None)
            return {part: found[part] for part in (TRAIN, other) if part is not None}
    return {}


def _labels(path: Path, options: Options) -> tuple[list[str], Sequence[str]]:
    """Each row's class by name, and the names in the order of the metadata; none there where it has none."""
    with opened(path) as file:
        schema = file.schema_arrow
        label = column(schema.names, options.label_column, LABELS, option="label_column", where=str(path))
        values = file.read(columns=[label]).column(label).to_pylist()
        declared = declared_names(schema, label) or ()
    return row_names(values, declared, where=str(path)), declared


def _images(paths: Sequence[Path], options: Options) -> dict[str, Any]:
    """Each file's images, encoded, in a temporary file that is mapped into memory and gone with it."""
    import pyarrow
    import pyarrow.compute

    counts = {}
    with tempfile.TemporaryFile() as store:
        schema = pyarrow.schema([("bytes", pyarrow.large_binary())])
        with pyarrow.ipc.new_file(store, schema) as writer:
            for path in paths:
                with opened(path) as file:
                    name = image_column(
                        file.schema_arrow,
                        options.image_column,
                        where=str(path),
                        otherwise=", or read paths with --data table",
                    )
                    counts[path] = file.metadata.num_rows
                    for batch in file.iter_batches(_ROWS, columns=[name]):
                        values = batch.column(name)
                        if pyarrow.types.is_struct(values.type):
                            values = pyarrow.compute.struct_field(values, "bytes")
                        _keep(writer, pyarrow.record_batch([values.cast(pyarrow.large_binary())], schema=schema))
        store.flush()
        mapped = mmap.mmap(store.fileno(), 0, access=mmap.ACCESS_READ)
    everything = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped)).read_all().column("bytes")
    columns, start = {}, 0
    for path, count in counts.items():
        columns[str(path)] = everything.slice(start, count)
        start += count
    return columns


def _keep(writer: Any, batch: Any) -> None:
    """Raises: DataError where there is no room."""
    try:
        writer.write_batch(batch)
    # Here, where it cannot be taken for damage of the file that is being read.
    except OSError as error:
        raise DataError(
            f"the images cannot be copied to {tempfile.gettempdir()} ({error}); set TMPDIR to a folder with more room"
        ) from error
