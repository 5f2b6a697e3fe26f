"""Photographs that stay encoded, wherever they lie: what all such sources let be set, and the Dataset they become."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..config import require
from ._bad_images import OnBadImage, require_how, without_bad
from ._base import Augment, Dataset
from ._class_folders import TRAIN
from ._drawn import drawn_parts
from ._files import ImageFiles
from ._listing import Listing, Part
from ._pictures import LARGEST

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the constants of every published ImageNet network


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """What may be set for any of them.

    Args:
        root: where they lie; required.
        size: pixels of a side of the square that the network is shown, 8 to 1024.
        resize: pixels of the short side in evaluation, before the middle is cut out; at least size.
        min_area: smallest share of the image's area in a random resized crop of training, above 0 to 1.
        train_per_class: so many training images of each class; null for all.
        split_seed: of train_per_class, and of the held-out part where it is drawn.
        workers: threads that read and decode, >= 1; null for one a processor core. They change no bit.
        max_pixels: the largest image that is decoded; a decompressed image takes 3 bytes a pixel.
        on_bad_image: "error" stops at an image that cannot be read, when its turn comes; "skip" decodes all of them
            once before, and leaves such images out of the test set; in training the next sound one takes the place.
    """

    root: str | None = None
    size: int = 224
    resize: int = 256
    min_area: float = 0.08
    train_per_class: int | None = None
    split_seed: int = 0
    workers: int | None = None
    max_pixels: int = LARGEST
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        require(8 <= self.size <= 1024, "data.size", self.size, "take 8 to 1024 pixels")
        require(
            self.size <= self.resize <= 2048,
            "data.resize",
            self.resize,
            f"take data.size, which is {self.size}, to 2048 pixels",
        )
        require(0 < self.min_area <= 1, "data.min_area", self.min_area, "take above 0 and at most 1")
        require(
            self.train_per_class is None or self.train_per_class >= 1,
            "data.train_per_class",
            self.train_per_class,
            "take 1 or more, or null",
        )
        require(self.workers is None or self.workers >= 1, "data.workers", self.workers, "take 1 or more, or null")
        require(
            self.resize**2 <= self.max_pixels <= LARGEST,
            "data.max_pixels",
            self.max_pixels,
            f"take data.resize squared, which is {self.resize**2}, to {LARGEST}",
        )
        require_how(self.on_bad_image)


@dataclass(frozen=True, kw_only=True)
class DrawnOptions(PhotoOptions):
    """Of those that may come without a held-out part.

    Args:
        val_fraction: share of each class that is held out where the data has no such part, in (0, 1).
    """

    val_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "take above 0 and below 1")


def with_held_out(part: Part, classes: tuple[str, ...], options: DrawnOptions, *, source: str) -> Listing:
    """Training and held-out part of images that have none, and `source` with how it was drawn.

    Raises: DataError where a class has a single image.
    """
    names = [f"{source}: class {each!r}" for each in classes]
    training, testing = drawn_parts(part.labels, names, fraction=options.val_fraction, seed=options.split_seed)
    drawn = f"{options.val_fraction:g} of each class held out by seed {options.split_seed}"
    return Listing(classes, part.take(training), part.take(testing), f"{source}; {drawn}")


def parted(parts: Mapping[str, Part], classes: tuple[str, ...], options: DrawnOptions, *, source: str) -> Listing:
    """Training and the part that is beside it, or a share of training where there is none; counted.

    Args:
        parts: "train", and at most one more, by their names.
    Raises: DataError where a class is too small.
    """
    other = next((name for name in parts if name != TRAIN), None)
    if other is None:
        found = with_held_out(parts[TRAIN], classes, options, source=source)
    else:
        found = Listing(classes, parts[TRAIN], parts[other], f"{source} ({TRAIN} and {other})")
    return counted(found, options)


def counted(listing: Listing, options: PhotoOptions) -> Listing:
    """With its numbers of images in `source`, and as few training images as options say.

    Raises: DataError where a class has fewer.
    """
    source = f"{listing.source}; {len(listing.train.paths):,} + {len(listing.test.paths):,} images"
    return replace(listing, source=source).few_shot(options.train_per_class, seed=options.split_seed)


def photographs(name: str, options: PhotoOptions, listing: Listing) -> Dataset:
    """The data set of these images.

    Raises: DataError where images that are to be skipped are all there are.
    """
    shown = _files(listing.test, options)
    return Dataset(
        name=name,
        train=without_bad(_files(listing.train, options), options.on_bad_image, part="train"),
        test=without_bad(shown, options.on_bad_image, part="test"),
        classes=listing.classes,
        mean=MEAN,
        std=STD,
        augment=Augment(pad=0, flip=True, min_area=options.min_area),
        source=listing.source,
        preparation=shown.preparation,
    )


def _files(part: Part, options: PhotoOptions) -> ImageFiles:
    return ImageFiles(
        part.paths,
        torch.tensor(part.labels, dtype=torch.int64),
        options.size,
        options.resize,
        options.max_pixels,
        options.workers,
        part.opened,
    )
