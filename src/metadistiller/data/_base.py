"""What a data source gives: two labelled sets of images that stay in memory, and how they are shown.

A source is one module with Options, NAMES and `build(options) -> Dataset` (see metadistiller.lookup). Its Options have
at least

    root: str | None            where to look first; null searches the usual places
    train_per_class: int | None few-shot studies: so many training images of each class, drawn by split_seed
    split_seed: int             of whatever the source draws by itself (split, subset)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ._order import generator


@dataclass(frozen=True)
class Augment:
    """What may happen to a training image; drawn anew for every image and epoch.

    Attributes:
        pad: pixels of black on every side before a random crop of the original size; 0 for none.
        flip: whether half of the images are mirrored left to right.
        min_area: of a random resized crop, the smallest share of the area, above 0 to 1; 1 for no resizing.
    """

    pad: int = 4
    flip: bool = True
    min_area: float = 1.0


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, 0 to C-1.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification task.

    Attributes:
        name: as `--data` names it.
        train: the training set.
        test: the set that accuracy is reported on; never seen in training.
        classes: C names in the order of the labels.
        mean, std: of each channel, in units of 0..1; of the whole training set, also where a few images of it are used.
        augment: what suits these images.
        source: where the images came from, for the record.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: Augment
    source: str

    def __post_init__(self) -> None:
        for part, images in (("train", self.train), ("test", self.test)):
            self._check(part, images)
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {tuple(self.train.images.shape[1:])}, "
                f"test images {tuple(self.test.images.shape[1:])}; they must agree"
            )

    def _check(self, part: str, images: ImageSet) -> None:
        if len(images) == 0:
            raise DataError(f"{self.name}: the {part} set has no images; check {self.source}")
        if images.images.dtype != torch.uint8 or images.images.ndim != 4 or images.images.shape[1] != 3:
            raise DataError(
                f"{self.name}: {part} images are {images.images.dtype} {tuple(images.images.shape)}; "
                "they must be uint8 (N, 3, H, W)"
            )
        if len(images.images) != len(images.labels):
            raise DataError(f"{self.name}: {len(images.images)} {part} images, but {len(images.labels)} labels")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name}: {part} labels run from {low} to {high}, but there are {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1}); check {self.source}"
            )
        if part == "train":
            counts = torch.bincount(images.labels, minlength=len(self.classes))
            empty = [self.classes[i] for i in torch.nonzero(counts == 0).flatten().tolist()]
            if empty:
                raise DataError(
                    f"{self.name}: no training image of class {', '.join(map(repr, empty[:5]))}"
                    f"{' and others' if len(empty) > 5 else ''}; remove the class or add images"
                )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]


def channel_statistics(
    images: Tensor,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over all pixels, in units of 0..1; images (N, 3, H, W) uint8."""
    count = images.shape[0] * images.shape[2] * images.shape[3]
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    for chunk in torch.split(images, 4096):
        values = chunk.to(torch.float64).div_(255)
        total += values.sum((0, 2, 3))
        squares += values.square_().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    # A constant channel would divide by zero; it carries nothing, so any scale is right.
    std = torch.where(std > 0, std, 1.0)
    m, s = mean.tolist(), std.tolist()
    return (m[0], m[1], m[2]), (s[0], s[1], s[2])


def few_shot(images: ImageSet, per_class: int | None, *, seed: int, classes: Sequence[str]) -> ImageSet:
    """`per_class` images of each class, drawn by `seed`; everything where per_class is None.

    Raises: DataError where a class has fewer.
    """
    if per_class is None:
        return images
    chosen = []
    for label, name in enumerate(classes):
        members = torch.nonzero(images.labels == label).flatten()
        if len(members) < per_class:
            raise DataError(
                f"class {name!r} has {len(members)} training images, but data.train_per_class is {per_class}; "
                "take fewer"
            )
        order = torch.randperm(len(members), generator=generator(seed, "few_shot", label))
        chosen.append(members[order[:per_class]])
    index = torch.cat(chosen).sort().values
    return ImageSet(images.images[index], images.labels[index])
