"""How evaluation shows a picture, as plain values that an exported network carries in its header."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import CheckpointError, DataError
from ._pictures import LARGEST, read_picture

LONGEST = 4096  # pixels of a side that anybody may ask for; a file may come from a stranger
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From a picture to the pixels that evaluation shows.

    Attributes:
        crop: height and width of what is shown.
        resize: pixels of the short side before the middle is cut out; None where the largest middle of the crop's
            shape is cut out and resized in one step (ImageOps.fit).
        interpolation: of the resize.
        max_pixels: the largest picture that is decoded.
    """

    crop: tuple[int, int]
    resize: int | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    max_pixels: int = LARGEST

    @property
    def enough(self) -> int | None:
        """Pixels of a side that suffice; a JPEG may then be decoded at a fraction of its size."""
        # Twice the wanted size leaves the resampling its detail.
        return 2 * max(self.crop) if self.resize is None else None

    def shown(self, picture: Image.Image) -> Image.Image:
        """Raises: DataError where the picture would be too large after the resize."""
        height, width = self.crop
        how = _FILTERS[self.interpolation]
        if self.resize is None:
            return ImageOps.fit(picture, (width, height), how)
        short = min(picture.size)
        wide, tall = (int(self.resize * side / short) for side in picture.size)
        if wide * tall > self.max_pixels:
            # A line of pixels is a small image until its short side is resized.
            raise DataError(f"{wide}x{tall} pixels after the resize are more than {self.max_pixels}")
        left, top = round((wide - width) / 2), round((tall - height) / 2)
        return picture.resize((wide, tall), how).crop((left, top, left + width, top + height))

    def pixels(self, picture: Image.Image) -> Tensor:
        """What is shown of `picture`; (3, H, W) uint8."""
        return torch.from_numpy(np.array(self.shown(picture))).permute(2, 0, 1)

    def read(self, path: str) -> Tensor:
        """What is shown of the file; (3, H, W) uint8.

        Raises: DataError where the picture is too large. Damaged bytes make the decoders raise nearly anything else.
        """
        return self.pixels(read_picture(path, max_pixels=self.max_pixels, enough=self.enough))

    def as_dict(self) -> dict[str, Any]:
        return {
            "fit": self.resize is None,
            "resize": self.resize,
            "crop": list(self.crop),
            "interpolation": self.interpolation,
            "max_pixels": self.max_pixels,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preparation":
        """What as_dict gave. Raises: CheckpointError where it is not that."""
        try:
            height, width = values["crop"]
            found = cls(
                crop=(int(height), int(width)),
                resize=None if values["resize"] is None else int(values["resize"]),
                interpolation=values["interpolation"],
                max_pixels=int(values["max_pixels"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"preparation is damaged ({type(error).__name__}: {error})") from None
        if (
            found.interpolation not in _FILTERS
            or not 1 <= found.max_pixels <= LARGEST
            or min(found.crop) < 1
            or max(*found.crop, found.resize or 0) > LONGEST
            or (found.resize is not None and found.resize < max(found.crop))
            or values.get("fit") is not (found.resize is None)
        ):
            raise CheckpointError(f"preparation is {dict(values)!r}, which cannot be meant; was the file edited?")
        return found
