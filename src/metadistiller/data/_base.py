"""What a data source gives: two labelled sets of images, and how they are shown.

A set is resident (ImageSet in _resident.py: every pixel in memory) or in files that are decoded when they are asked for
(ImageFiles in _files.py). Everybody else sees LabelledImages, and training sees the TrainingView that the set makes.

A source is one module with Options, NAMES and `build(options) -> Dataset` (see metadistiller.lookup). Its Options have
at least

    root: str | None            where to look first; null searches the usual places
    train_per_class: int | None few-shot studies: so many training images of each class, drawn by split_seed
    split_seed: int             of whatever the source draws by itself (split, subset)
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import DataError
from ._order import class_in_order
from ._preparation import Preparation


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


class TrainingView(ABC):
    """A training set as training sees it: augmented, normalised, on a device.

    What happens to an image is a function of (seed, epoch, stream, image): the same image twice in an epoch of a stream
    looks the same twice, whichever batches it falls into and whatever was asked for before.

    Attributes:
        labels: (N,) int64, on the device.
        seed: of the run.
        size: height and width in pixels of what `batch` gives.
    """

    labels: Tensor
    seed: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (B, 3, H, W) float32 and labels (B,) int64 of the images at `index` (B,).

        Raises: DataError where an image cannot be read.
        """

    @abstractmethod
    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        """A hint, of no consequence for any bit: this batch will soon be asked for."""


class LabelledImages(ABC):
    """N images of one size and their labels.

    Attributes:
        labels: (N,) int64, 0 to C-1.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> Sequence[str]:
        """N of them, as whoever has the images calls them; none where they have no names."""
        return ()

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as evaluation and training show the images."""

    @abstractmethod
    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` (B,) as evaluation shows them; (B, 3, H, W) uint8.

        Raises: DataError where an image cannot be read.
        """

    @abstractmethod
    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order: pixels (B, 3, H, W) uint8 and labels (B,), the last batch as short as it comes.

        Raises: DataError where an image cannot be read.
        """

    @abstractmethod
    def take(self: "Images", index: Tensor) -> "Images":
        """The set of the images at `index` (B,)."""

    @abstractmethod
    def objection(self) -> str | None:
        """What is wrong with the images, as far as it shows without reading a file; None where nothing is."""

    @abstractmethod
    def training_view(
        self, dataset: "Dataset", *, seed: int, device: torch.device, memory_format: torch.memory_format
    ) -> TrainingView:
        """These images as `dataset`, whose training set they are, has them augmented and normalised."""


Images = TypeVar("Images", bound=LabelledImages)


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
        preparation: how evaluation shows a picture; None where the images are shown as they are.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: Augment
    source: str
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        for part, images in self._parts():
            self._check(part, images)
        if self.train.size != self.test.size:
            raise DataError(
                f"{self.name}: training images are {self.train.size} (height, width), test images {self.test.size}; "
                "they must agree"
            )

    def _check(self, part: str, images: LabelledImages) -> None:
        if len(images) == 0:
            raise DataError(f"{self.name}: the {part} set has no images; check {self.source}")
        if (objection := images.objection()) is not None:
            raise DataError(f"{self.name}: {part} images {objection}")
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
        return self.train.size

    def contents(self) -> dict[str, Any]:
        """What tells these images from others that the same settings found at another time or place.

        Returns: how many images there are for `train` and `test`, how many `classes`, and `train_sha256` and
            `test_sha256`: of the names of the classes and, image by image in order, its label and the last name of its
            file, where it has one. No image is read for it: what is inside a file may be another.
        """
        digests = {f"{part}_sha256": self._digest(images) for part, images in self._parts()}
        return {part: len(images) for part, images in self._parts()} | {"classes": self.num_classes} | digests

    def _parts(self) -> tuple[tuple[str, LabelledImages], ...]:
        return ("train", self.train), ("test", self.test)

    def _digest(self, images: LabelledImages) -> str:
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(images.labels.cpu().numpy().astype("<i8").tobytes())
        # A file's name may be bytes that are no text.
        digest.update("\0".join(map(os.path.basename, images.names)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def picture_preparation(self) -> Preparation:
        """How a picture from elsewhere becomes what evaluation shows."""
        return self.preparation or Preparation(crop=self.size)

    def training_view(
        self, *, seed: int, device: torch.device, memory_format: torch.memory_format = torch.channels_last
    ) -> TrainingView:
        """The training set as a run sees it.

        Args:
            seed: of the run.
            device: where the batches are.
            memory_format: of the batches.
        """
        return self.train.training_view(self, seed=seed, device=device, memory_format=memory_format)


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


def few_shot(images: Images, per_class: int | None, *, seed: int, classes: Sequence[str]) -> Images:
    """`per_class` images of each class, drawn by `seed`; everything where per_class is None.

    Raises: DataError where a class has fewer.
    """
    if per_class is None:
        return images
    return images.take(few_shot_index(images.labels, per_class, seed=seed, classes=classes))


def few_shot_index(labels: Tensor, per_class: int, *, seed: int, classes: Sequence[str]) -> Tensor:
    """Where the images of few_shot stand among all; ascending int64.

    Raises: DataError where a class has fewer.
    """
    chosen = []
    for label, name in enumerate(classes):
        members = class_in_order(labels, label, "few_shot", seed=seed)
        if len(members) < per_class:
            raise DataError(
                f"class {name!r} has {len(members)} training images, but data.train_per_class is {per_class}; "
                "take fewer"
            )
        chosen.append(members[:per_class])
    return torch.cat(chosen).sort().values
