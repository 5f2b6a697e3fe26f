"""Images that cannot be read: an error, or left out with a warning that names them."""

import warnings
from bisect import bisect_left
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..config import require
from ..errors import DataError
from ._files import ImageFiles, new_threads

OnBadImage: TypeAlias = Literal["error", "skip"]

_NAMED = 5  # of the bad images; the others are counted


def require_how(value: str) -> None:
    """Raises: ConfigError where it is no value of data.on_bad_image."""
    require(value in get_args(OnBadImage), "data.on_bad_image", value, f"take {' or '.join(get_args(OnBadImage))}")


def kept(bad: Mapping[int, str], count: int, *, part: Literal["train", "test"]) -> Tensor:
    """Which images stand in the places of `count` images, of which some are bad; int64.

    In training the next sound one takes a bad one's place (after the last comes the first), so that the others stay
    where they were; of a test set bad ones are left out. Says once how many and which.

    Args:
        bad: from the image's number to its name and what is wrong with it.
    Raises: DataError where none is sound.
    """
    sound = [number for number in range(count) if number not in bad]
    if not bad:
        return torch.arange(count)
    reasons = list(bad.values())
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    named = f"{len(bad)} of {count} {part} images cannot be read: {'; '.join(reasons[:_NAMED])}{more}"
    if not sound:
        raise DataError(f"{named}; none is left")
    what = "the next sound ones take their places" if part == "train" else "they are left out"
    warnings.warn(f"{named}; {what} (data.on_bad_image is skip)", UserWarning, stacklevel=2)
    if part == "test":
        return torch.tensor(sound)
    return torch.tensor([sound[bisect_left(sound, number) % len(sound)] for number in range(count)])


def without_bad(images: ImageFiles, on_bad_image: OnBadImage, *, part: Literal["train", "test"]) -> ImageFiles:
    """The images without those that cannot be read, as `kept` has it; all of them, unlooked at, for "error".

    Each image is decoded once to find out. Raises: DataError where none can be read.
    """
    if on_bad_image == "error":
        return images

    def reason(number: int) -> str | None:
        try:
            images.middle(number)
        except DataError as error:
            return str(error).partition("; put a sound copy")[0]
        return None

    threads: ThreadPoolExecutor
    with new_threads(images.workers) as threads:
        found = enumerate(threads.map(reason, range(len(images))))
        bad = {number: said for number, said in found if said is not None}
    return images.take(kept(bad, len(images), part=part))
