"""What an exported file says of itself: which network, of which classes, and how a picture becomes its pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...config import Choice, Config
from ...data import Dataset, Preparation
from ...errors import CheckpointError
from ...nn import Backbone, build_network
from ..tensor_file import LARGEST_SIDE, filled

# One key only: the order of several is not fixed in the file, and the same network must give the same bytes.
KEY = "network"


def header_of(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Of the network that `config` trains on `dataset`."""
    return {
        "model": config.model.as_dict(),
        "classes": list(dataset.classes),
        "size": list(dataset.size),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "preparation": dataset.picture_preparation.as_dict(),
    }


def network_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Backbone:
    """The network that a header names, with the weights of its file, in evaluation mode. Raises: CheckpointError."""
    try:
        model = dict(header["model"])
        choice, classes = Choice(name=model.pop("name"), options=model), len(header["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
    return filled(lambda: build_network(choice, classes), lambda network: {"": network.plain}, tensors, path)


@dataclass(frozen=True)
class Described:
    """A header read and checked.

    Attributes:
        classes: in the order of the logits.
        size: height and width of the pixels that the network takes.
        mean, std: of each channel, in units of 0..1.
        preparation: how a picture becomes these pixels; None in files from before it was written.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: Preparation | None


def described(header: Mapping[str, Any], path: Path) -> Described:
    """Raises: CheckpointError naming file and reason."""
    try:
        classes, (height, width) = tuple(map(str, header["classes"])), tuple(map(int, header["size"]))
        mean, std = (tuple(map(float, header[key])) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise CheckpointError(f"{path} has a damaged header (images of {height}x{width} pixels)")
    if not (classes and len(mean) == len(std) == 3 and min(std) > 0):
        raise CheckpointError(
            f"{path} has a damaged header ({len(classes)} classes, mean {mean}, std {std}; one class or more and three "
            "channels are meant)"
        )
    if "preparation" not in header:
        return Described(classes, (height, width), mean, std, None)
    try:
        preparation = Preparation.from_dict(header["preparation"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Described(classes, (height, width), mean, std, preparation)
