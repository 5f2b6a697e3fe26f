"""Handwritten digits, 1,797 of them, inside the package: a data set that is always there.

All are the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0): 8x8 pixels of 0 to 16, written by 13 people. Shown as 32x32 RGB,
so that a network for CIFAR fits. UCI's own training part is not here, so accuracies do not compare with
published ones.
"""

from dataclasses import dataclass
from importlib.resources import files

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..config import require
from ..errors import DataError
from ._base import Augment, Dataset, channel_statistics, few_shot
from ._order import generator
from ._resident import ImageSet

NAMES: dict[str, dict[str, int]] = {"digits": {}}

_NUM_TRAIN = 1000
_INK = 16  # the darkest value of the file
_SIDE = 32  # pixels, as shown


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be set.

    Args:
        root: null; the digits are inside the package.
        train_per_class: so many training images of each digit; null for all 1,000 images.
        split_seed: of the draw of the 1,000 training images, and of train_per_class.
    """

    root: str | None = None
    train_per_class: int | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        require(self.root is None, "data.root", self.root, "leave it out: the digits are inside the package")
        require(
            self.train_per_class is None or self.train_per_class >= 1,
            "data.train_per_class",
            self.train_per_class,
            "take 1 or more, or null",
        )


def build(options: Options) -> Dataset:
    """1,000 training and 797 test images, both with each digit's share of the whole.

    Raises: DataError where the packaged file is damaged, or a digit has fewer than train_per_class images.
    """
    pixels, labels = _read()
    images = _shown(pixels)
    train_index, test_index = _split(labels, options.split_seed)
    train = ImageSet(images[train_index], labels[train_index])
    mean, std = channel_statistics(train.images)
    classes = tuple("0123456789")
    return Dataset(
        name="digits",
        train=few_shot(train, options.train_per_class, seed=options.split_seed, classes=classes),
        test=ImageSet(images[test_index], labels[test_index]),
        classes=classes,
        mean=mean,
        std=std,
        # A mirrored digit is another character, or none.
        augment=Augment(pad=4, flip=False),
        source="UCI Optical Recognition of Handwritten Digits, test part (CC BY 4.0), inside the package",
    )


def _read() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 8, 8) uint8 of 0 to 16, labels (1797,) int64."""
    try:
        stored = load(files(__package__).joinpath("digits.safetensors").read_bytes())
        return stored["images"], stored["labels"].long()
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(
            f"the digits inside the package cannot be read ({error}); install metadistiller again"
        ) from error


def _shown(pixels: Tensor) -> Tensor:
    """(N, 8, 8) of 0 to 16 as (N, 3, 32, 32) uint8; a pixel's value stands at its centre."""
    gray = F.interpolate(pixels[:, None] * (255 / _INK), size=_SIDE, mode="bilinear", align_corners=False)
    return gray.round().to(torch.uint8).expand(-1, 3, -1, -1)


def _split(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of 1,000 training images and of the rest; each class has its share, to the nearest image."""
    counts = torch.bincount(labels)
    share = counts.double() * _NUM_TRAIN / len(labels)
    quota = share.long()
    # Largest remainders, so that rounding neither adds nor loses an image.
    quota[(quota - share).argsort(stable=True)[: _NUM_TRAIN - int(quota.sum())]] += 1
    training = torch.zeros(len(labels), dtype=torch.bool)
    for label, (count, taken) in enumerate(zip(counts.tolist(), quota.tolist(), strict=True)):
        order = torch.randperm(count, generator=generator(seed, "split", label))
        training[torch.nonzero(labels == label).flatten()[order[:taken]]] = True
    return torch.nonzero(training).flatten(), torch.nonzero(~training).flatten()
