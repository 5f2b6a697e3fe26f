"""A program of torch.export, which torch runs without this package; pixels in, logits out.

torch.export.load runs what a file says, pickles among it, so it is used here on files only that were written just now.
To answer from a file of anybody's, its weights are read as plain numbers and its network is built by name: the program
in it is not run.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...methods import Method
from ...records import write_bytes
from ..tensor_file import parse
from ._format import Format, Opened
from ._header import KEY
from ._pixels import DESCRIPTION, FromPixels, traced
from .safetensors import answering, with_weights

# As torch's schema numbers them (torch/_export/serde/schema.py, ScalarType); networks hold these.
_TYPES = {5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_LARGEST = 1 << 34  # bytes of one entry


def _write(method: Method, path: Path, header: Mapping[str, Any]) -> None:
    program = traced(FromPixels(method.deployable().plain, header), header)
    file = io.BytesIO()
    extra = {KEY: json.dumps({**header, "input": DESCRIPTION})}
    torch.export.save(program, file, extra_files=extra)
    write_bytes(path, file.getvalue())


def _shipped(path: Path) -> Opened:
    extra = {KEY: ""}
    with path.open("rb") as file:
        program: Any = torch.export.load(file, extra_files=extra).module()

    @torch.no_grad()
    def answers(pixels: Tensor) -> list[Tensor]:
        return [program(pixels)]

    return Opened(json.loads(extra[KEY]), answers)


def _open(path: Path) -> Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            header, tensors = _read(archive, path)
    except CheckpointError:
        raise
    # Damaged archives, tables and numbers make their readers raise nearly anything.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    return answering(with_weights(header, tensors, path), path)


def _read(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and weights, without the program and whatever else is in the file."""
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}

    def read(name: str) -> bytes:
        if name not in entries:
            raise CheckpointError(f"{path} was not written by this package: it has no {name}")
        info = entries[name]
        # torch packs nothing; what is packed may unfold to more than any memory.
        if info.compress_type != zipfile.ZIP_STORED or not info.file_size == info.compress_size <= _LARGEST:
            raise CheckpointError(f"{path} was not written by this package: {name} in it is packed")
        return archive.read(info)

    header = parse(read(f"extra/{KEY}").decode(), path)
    stored = json.loads(read("data/weights/model_weights_config.json"))["config"]
    # Each once: a small file with many names for one entry would unfold to any size.
    tensors, read_before = {}, set()
    for name, entry in stored.items():
        if name.startswith("network."):
            if entry["use_pickle"]:
                raise CheckpointError(f"{path} holds {name} as a pickle, which could run code; it is not read")
            meta = entry["tensor_meta"]
            size, stride = ([int(side["as_int"]) for side in meta[key]] for key in ("sizes", "strides"))
            if entry["path_name"] in read_before:
                raise CheckpointError(f"{path} was not written by this package: {name} in it is another one's, too")
            read_before.add(entry["path_name"])
            values = torch.frombuffer(
                bytearray(read(f"data/weights/{entry['path_name']}")), dtype=_TYPES[meta["dtype"]]
            )
            # torch refuses what would reach beyond the numbers that there are.
            tensors[name.removeprefix("network.")] = values.as_strided(
                size, stride, int(meta["storage_offset"]["as_int"])
            )
    return header, tensors


FORMAT = Format(name="torch", suffix=".pt2", write=_write, open=_open, shipped=_shipped)
