"""One photograph out of a file that nobody has looked at yet: upright, RGB, and no larger than allowed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError

LARGEST = 89_000_000  # pixels; above, Pillow itself takes a file for an attack
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # Pillow's names of the decoders that a file may reach
_ORIENTATION = 0x0112  # EXIF's number of the tag; 1 is upright


def read_picture(path: str | BinaryIO, *, max_pixels: int, enough: int | None = None) -> Image.Image:
    """The whole picture.

    Args:
        path: of its file, or the file itself, opened.
        max_pixels: larger ones are refused by their header; at most LARGEST.
        enough: pixels of a side that suffice; a JPEG may then be decoded at a fraction of its size. None for as it is.
    Raises: DataError where it is too large. Damaged bytes make the decoders raise nearly anything else.
    """
    with _opened(path, max_pixels) as image:
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
        return _rgb(_upright(image))


@dataclass(frozen=True)
class Look:
    """What one look at a whole picture tells.

    Attributes:
        size: width and height in pixels, upright.
        form: format and mode of the file: "JPEG RGB".
        digest: of the upright RGB pixels and their size; pictures that a network could not tell apart have the same.
        uniform: whether it is of one colour all over.
    """

    size: tuple[int, int]
    form: str
    digest: bytes
    uniform: bool


def look_at(path: str | BinaryIO, *, max_pixels: int) -> Look:
    """Args and Raises: as read_picture."""
    with _opened(path, max_pixels) as image:
        form = f"{image.format} {image.mode}"
        image.load()
        return look_of(np.asarray(_rgb(_upright(image))), form)


def look_of(pixels: "np.ndarray[Any, Any]", form: str) -> Look:
    """Args: pixels: (H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return Look((width, height), form, digest.digest(), bool((pixels == pixels[0, 0]).all()))


@contextmanager
def _opened(path: str | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """The header of a picture is read. Raises: DataError where it says more than `max_pixels`."""
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        # A file of some kilobytes can unfold to gigabytes.
        if width * height > max_pixels:
            raise DataError(f"{width}x{height} pixels are more than data.max_pixels={max_pixels}")
        yield image


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    # The pixels are there by now, and a note about them that cannot be read (nearly any error) turns nothing.
    except Exception:
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255 instead of scaling them.
        values = np.asarray(image)
        clear = image.info.get("transparency")
        shown = values >> 8 if clear is None else np.where(values == clear, 0, values >> 8)
        return Image.fromarray(shown.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
