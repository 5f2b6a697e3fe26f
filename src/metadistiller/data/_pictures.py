"""One photograph out of a file that nobody has looked at yet: upright, RGB, and no larger than allowed."""

from typing import BinaryIO

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
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        # The header is all that was read: a file of some kilobytes can unfold to gigabytes.
        if width * height > max_pixels:
            raise DataError(f"{width}x{height} pixels are more than data.max_pixels={max_pixels}")
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
        return _rgb(_upright(image))


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
