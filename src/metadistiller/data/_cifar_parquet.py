"""CIFAR as the Hugging Face hub passes it on: parquet files of PNG images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ._cifar_files import SIDE, Kind, check_labels
from ._parquet_files import check_complete, declared_names, opened
from ._resident import ImageSet


def _shards(folder: Path, part: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{part}-*.parquet") if path.is_file())


def parquet_objection(folder: Path, kind: Kind) -> str | None:
    """Why the parquet files in `folder` are not those of `kind`; None where they are. Reads one schema.

    Raises: DataError where the file is damaged.
    """
    train = _shards(folder, "train")
    if not train or not _shards(folder, "test"):
        return f"{folder} does not hold both train-*.parquet and test-*.parquet"
    with opened(train[0]) as file:
        schema = file.schema_arrow
    if (objection := _column_objection(schema, kind)) is not None:
        return f"{train[0]} {objection}"
    names = declared_names(schema, kind.parquet_label)
    if names is not None and names != kind.classes:
        return f"{train[0]} names other classes than {kind.title}: {', '.join(names[:3])}, ..."
    # `image` and `label` without names could be any data set's; `img` is how the hub spells it for CIFAR-10.
    if names is None and kind.parquet_label == "label" and "img" not in schema.names:
        return f"{train[0]} has neither a column 'img' nor names of classes, so it could be anything"
    return None


def _column_objection(schema: Any, kind: Kind) -> str | None:
    from pyarrow import types

    column = _image_column(schema)
    if column not in schema.names or not types.is_struct(schema.field(column).type):
        return f"has no column 'img' or 'image' of PNG bytes, only {', '.join(schema.names)}"
    if not any(field.name == "bytes" and types.is_binary(field.type) for field in schema.field(column).type):
        return f"has no 'bytes' in its column {column!r}"
    if kind.parquet_label not in schema.names:
        return f"has no column {kind.parquet_label!r}, only {', '.join(schema.names)}"
    if not types.is_integer(schema.field(kind.parquet_label).type):
        found = schema.field(kind.parquet_label).type
        return f"has a column {kind.parquet_label!r} of {found}, not of whole numbers"
    return None


def _image_column(schema: Any) -> str:
    return "img" if "img" in schema.names else "image"


def read_parquet(folder: Path, kind: Kind) -> tuple[ImageSet, ImageSet]:
    """Training and test images. Raises: DataError where a file is missing or damaged."""
    return _read_part(folder, "train", kind), _read_part(folder, "test", kind)


def _read_part(folder: Path, part: str, kind: Kind) -> ImageSet:
    shards = _shards(folder, part)
    check_complete(shards)
    images, labels = [], []
    for path in shards:
        with opened(path) as file:
            if (objection := _column_objection(file.schema_arrow, kind)) is not None:
                raise DataError(f"{path} {objection}; fetch it again")
            column = _image_column(file.schema_arrow)
            for batch in file.iter_batches(1000, columns=[column, kind.parquet_label]):
                labels.append(_labels(path, batch.column(kind.parquet_label), kind))
                images.append(_images(path, batch.column(column)))
    if not images:
        raise DataError(f"{folder}: the {part} files have no rows; fetch them again")
    return ImageSet(torch.cat(images), torch.cat(labels))


def _labels(path: Path, column: Any, kind: Kind) -> Tensor:
    if column.null_count:
        raise DataError(f"{path} has rows without a {kind.parquet_label!r}; fetch it again")
    labels = torch.tensor(column.to_pylist())
    check_labels(str(path), labels, kind)
    return labels


def _images(path: Path, column: Any) -> Tensor:
    # One thread: at this size nearly all of the time is Python's, and threads in each other's way double it.
    pixels = b"".join(_pixels(path, png) for png in column.field("bytes").to_pylist())
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _pixels(path: Path, png: bytes | None) -> bytes:
    """One image, row by row."""
    if png is None:
        raise DataError(f"{path} has a row without an image; delete the file and fetch it again")
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            # The header is all that was read: a larger image is refused before it can unfold.
            if image.size != (SIDE, SIDE):
                width, height = image.size
                raise DataError(
                    f"{path} has an image of {width}x{height} pixels, but CIFAR has {SIDE}x{SIDE}; fetch it again"
                )
            pixels: bytes = image.convert("RGB").tobytes()
            return pixels
    except DataError:
        raise
    # Damaged bytes make the decoder raise nearly anything, so nothing narrower would do.
    except Exception as error:
        raise DataError(
            f"{path} has a PNG that does not decode ({error}); delete the file and fetch it again"
        ) from error
