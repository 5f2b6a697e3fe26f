"""One image as litdata stores it, encoded or as raw pixels, made into a file that Pillow reads."""

import io
import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError

# What is decoded when its turn comes; Pillow finds out which format it is.
_ENCODED = ("jpeg", "image", "bytes", "file")
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # Pillow's names of layouts of whole bytes -> bytes a pixel
_UINT8_OF_TORCH, _UINT8_OF_NUMPY = 11, 4  # litdata's numbers of the type


def _raw(mode: str, width: int, height: int, pixels: bytes | NDArray[np.uint8]) -> BinaryIO:
    """Pixels in the wrapping of a PNG, uncompressed: the one decoder's checks hold for them as well."""
    wrapped = io.BytesIO()
    Image.frombytes(mode, (width, height), bytes(pixels)).save(wrapped, "png", compress_level=0)
    wrapped.seek(0)
    return wrapped


def _pil(data: bytes) -> BinaryIO:
    width, height, size = struct.unpack_from("<3I", data)
    mode = data[12 : 12 + size].decode("ascii")
    if mode not in _MODES:
        raise DataError(f"its pixels are of Pillow's mode {mode}; {', '.join(_MODES)} are read: convert it")
    pixels = data[12 + size :]
    if len(pixels) != width * height * _MODES[mode]:
        raise DataError(f"{width}x{height} pixels of {mode} are not {len(pixels)} bytes")
    return _raw(mode, width, height, pixels)


def _tensor(data: bytes) -> BinaryIO:
    kind, rank = struct.unpack_from(">2I", data)
    return _array(kind == _UINT8_OF_TORCH, struct.unpack_from(f">{min(rank, 4)}I", data, 8), data, channels_first=True)


def _numpy(data: bytes) -> BinaryIO:
    kind, rank = struct.unpack_from("<2I", data)
    return _array(kind == _UINT8_OF_NUMPY, struct.unpack_from(f"<{min(rank, 4)}I", data, 8), data, channels_first=False)


def _array(whole_bytes: bool, shape: tuple[int, ...], data: bytes, *, channels_first: bool) -> BinaryIO:
    """Of a shape that both orders fit, `channels_first` says which is meant."""
    modes = {count: mode for mode, count in _MODES.items()}
    pixels = data[8 + 4 * len(shape) :]
    size = 1
    for side in shape:
        size *= side
    if not whole_bytes or len(shape) not in (2, 3) or size != len(pixels):
        raise DataError(f"an array of the shape {shape} and {len(pixels)} bytes is no image; take uint8, H x W x 3")
    values = np.frombuffer(pixels, np.uint8).reshape(shape)
    if len(shape) == 2:
        values = values[:, :, None]
    elif shape[0] in modes and (channels_first or shape[2] not in modes):
        values = values.transpose(1, 2, 0)
    height, width, channels = values.shape
    if channels not in modes:
        raise DataError(f"an array of the shape {shape} is no image; take uint8, H x W x 3")
    return _raw(modes[channels], width, height, values.tobytes())


def image_reader(kind: str) -> Callable[[bytes], BinaryIO] | None:
    """From the bytes of a value of litdata's `kind` to an open file of the image; None where it is no image."""
    readers: dict[str, Callable[[bytes], BinaryIO]] = {"pil": _pil, "tensor": _tensor, "numpy": _numpy}
    readers |= dict.fromkeys(_ENCODED, io.BytesIO)
    return readers.get(kind.partition(":")[0])
