"""Chunks as litdata writes them, read without it: where in which file each item's image lies, and its label.

litdata itself would unpickle whatever an index calls a pickle, so its readers never see the files: of each item two
values are taken, of kinds that are bytes, numbers or text. A chunk is either

    N, N+1 offsets of items, and of each item L sizes and then L values    (little-endian, 4 bytes each number)
    N, N+1 offsets that are all equal, an Arrow file of N rows, its size and a mark    (dicts of plain values)

Source: litdata 0.2.76, streaming/writer.py, streaming/item_loader.py and utilities/_pytree.py.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

INDEX = "index.json"
_ARROW = b"LDARW01\0"
_NO_PICKLE = (
    "a pickle, which may run code when it is read; write the set again with images as bytes and labels as int or str "
    "(a NumPy number is neither: int(label))"
)


@dataclass(frozen=True)
class Index:
    """What index.json says.

    Attributes:
        folder: of the chunks.
        kinds: from the name of each value of an item to its kind (jpeg, bytes, int, ...), in their order; a value
            inside another one is called OUTER.INNER, those of a tuple 0, 1 and so on.
        chunks: file name -> number of items, in their order.
    """

    folder: Path
    kinds: Mapping[str, str]
    chunks: Mapping[str, int]

    @property
    def path(self) -> Path:
        return self.folder / INDEX


@dataclass(frozen=True)
class Chunk:
    """The items of a file.

    Attributes:
        start, size: (N,) int64, bytes, of each image in the file; size -1 for an item without.
        labels: N, as they stand there.
    """

    start: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: Sequence[object]


def read_index(folder: Path) -> Index:
    """Raises: DataError where it is damaged, or the items are pickled, compressed, encrypted or of another layout."""
    path = folder / INDEX
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        config = whole["config"]
        kinds = [str(kind) for kind in config["data_format"]]
        names = _names(json.loads(config["data_spec"])[1])
        chunks = [(str(chunk["filename"]), int(chunk["chunk_size"])) for chunk in whole["chunks"]]
        how = {key: config.get(key) for key in ("compression", "ipc_compression", "encryption")}
        loader = config.get("item_loader") or "PyTreeLoader"
    # Written by others: whatever is not as expected.
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is no index of litdata ({type(error).__name__}: {error}); is it damaged? Write the set again"
        ) from error
    for kind in kinds:
        if kind.partition(":")[0] == "pickle":
            raise DataError(f"{path}: an item holds {_NO_PICKLE}")
    for key, value in how.items():
        if value:
            raise DataError(
                f"{path}: {key} is {value!r}; write the set again without it (encoded images do not get smaller)"
            )
    if loader != "PyTreeLoader":
        raise DataError(f"{path} is of litdata's {loader}; items of an image and a label are needed")
    if len(kinds) != len(names) or len(set(names)) < len(names):
        raise DataError(f"{path} names {len(names)} values of an item, but has {len(kinds)} kinds; write the set again")
    files = dict(chunks)
    for name, count in chunks:
        if Path(name).name != name or count < 1:
            raise DataError(f"{path} has the chunk {name!r} of {count} items; write the set again")
    if len(files) < len(chunks) or not files:
        raise DataError(f"{path} has no chunks, or one of them twice; write the set again")
    return Index(folder, dict(zip(names, kinds, strict=True)), files)


def _names(spec: Mapping[str, Any], outer: str = "") -> list[str]:
    """The values of an item in their order, of a tree as PyTorch's pytree writes it."""
    if spec["type"] is None:
        return [outer]
    children = spec["children_spec"]
    kind = spec["type"].rpartition(".")[2]
    if kind in ("tuple", "list"):
        keys = [str(number) for number in range(len(children))]
    elif kind in ("dict", "OrderedDict"):
        keys = [str(key) for key in json.loads(spec["context"])]
    else:
        raise ValueError(f"items of the kind {spec['type']}")
    if len(keys) != len(children):
        raise ValueError(f"{len(keys)} keys and {len(children)} values")
    inside = [_names(child, f"{outer}.{key}" if outer else key) for key, child in zip(keys, children, strict=True)]
    return [name for names in inside for name in names]


def read_chunk(index: Index, name: str, *, image: str, label: str) -> Chunk:
    """Where the images of the chunk `name` lie, and its labels; of the images no byte is read.

    Args:
        image, label: names of two values; the label's kind is int, str or text.
    Raises: DataError where the file is missing or damaged.
    """
    # Half a second of start-up that only this layout needs.
    import pyarrow

    path = index.folder / name
    try:
        whole = pyarrow.memory_map(str(path)).read_buffer()
        (count,) = struct.unpack_from("<I", whole)
        if count != index.chunks[name]:
            raise ValueError(f"{count} items in place of {index.chunks[name]}")
        offsets = np.frombuffer(whole, "<u4", count + 1, 4).astype(np.int64)
        if offsets[0] != 4 * (count + 2) or offsets[-1] > whole.size or (np.diff(offsets) < 0).any():
            raise ValueError("items that lie outside of it")
        if offsets[-1] == offsets[0]:
            return _rows(whole, count, image.split("."), label.split("."))
        return _items(whole, offsets, index.kinds, image, label)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DataError(
            f"{path} is missing or damaged ({type(error).__name__}: {error}); fetch it again, or write the set again"
        ) from error


def _items(whole: Any, offsets: NDArray[np.int64], kinds: Mapping[str, str], image: str, label: str) -> Chunk:
    names = list(kinds)
    header = 4 * len(names)
    if (np.diff(offsets) < header).any():
        raise ValueError("items without their sizes")
    data = np.frombuffer(whole, np.uint8)
    heads = data[offsets[:-1, None] + np.arange(header)]
    sizes = heads.view("<u4").astype(np.int64)
    ends = offsets[:-1, None] + header + sizes.cumsum(1)
    if (ends[:, -1] != offsets[1:]).any():
        raise ValueError("items whose sizes do not add up")
    starts = ends - sizes
    there = names.index(label)
    places = zip(starts[:, there].tolist(), ends[:, there].tolist(), strict=True)
    raw = [data[start:end].tobytes() for start, end in places]
    shown = names.index(image)
    if kinds[label] == "int":
        labels: list[object] = [struct.unpack("<q", value)[0] for value in raw]
    else:
        labels = [value.decode("utf-8") for value in raw]
    return Chunk(starts[:, shown], sizes[:, shown], labels)


def _rows(whole: Any, count: int, image: Sequence[str], label: Sequence[str]) -> Chunk:
    import pyarrow

    tail = whole.slice(whole.size - 12)
    (size,) = struct.unpack_from("<I", tail)
    if tail.to_pybytes()[4:] != _ARROW or size > whole.size - 12:
        raise ValueError("no items")
    table = pyarrow.ipc.open_file(whole.slice(whole.size - 12 - size, size)).read_all()
    table.validate(full=True)
    if table.num_rows != count:
        raise ValueError(f"{table.num_rows} rows in place of {count}")
    starts, sizes = [], []
    for part in _column(table, image).chunks:
        if pyarrow.types.is_large_binary(part.type):
            width = "<i8"
        elif pyarrow.types.is_binary(part.type):
            width = "<i4"
        else:
            raise ValueError(f"images of the kind {part.type}")
        _, ends, data = part.buffers()
        offsets = np.frombuffer(ends, width)[part.offset : part.offset + len(part) + 1].astype(np.int64)
        # In the file itself, as the table is mapped and nothing was copied.
        base = 0 if data is None else data.address - whole.address
        if not 0 <= base <= whole.size - (0 if data is None else data.size):
            raise ValueError("images that are compressed")
        starts.append(base + offsets[:-1])
        sizes.append(np.where(np.asarray(part.is_valid()), np.diff(offsets), -1))
    return Chunk(np.concatenate(starts), np.concatenate(sizes), _column(table, label).to_pylist())


def _column(table: Any, names: Sequence[str]) -> Any:
    import pyarrow.compute

    found = table.column(names[0])
    return pyarrow.compute.struct_field(found, list(names[1:])) if len(names) > 1 else found
