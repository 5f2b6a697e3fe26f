"""ImageNet (ILSVRC 2012), or any set of photographs in its form, read from the files while it trains.

    ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG       val, valid, validation or test; the first that is there

Classes are numbered in the order of their folders' names, as torchvision's ImageFolder does. Nothing is decoded before
it is asked for, so the set may be larger than memory, and a damaged file shows when its turn comes.
Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015; https://www.image-net.org
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import require
from ..errors import ConfigError, DataError
from ._bad_images import OnBadImage, require_how, without_bad
from ._base import Augment, Dataset, few_shot
from ._class_folders import HELD_OUT, TRAIN, Part, count_images, given_parts, has_train, held_out_part, named_by_wordnet
from ._files import ImageFiles
from ._pictures import LARGEST
from ._preparation import Preparation

NAMES: dict[str, dict[str, int]] = {"imagenet": {}}

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the constants of every published ImageNet network
_LAYOUT = "put the images into ROOT/train/CLASS/ and ROOT/val/CLASS/"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be set.

    Args:
        root: the folder with train/ and val/ inside; required.
        size: pixels of a side of the square that the network is shown, 8 to 1024.
        resize: pixels of the short side in evaluation, before the middle is cut out; at least size.
        min_area: smallest share of the image's area in a random resized crop of training, above 0 to 1.
        train_per_class: so many training images of each class; null for all.
        split_seed: of train_per_class.
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


def recognises(path: Path) -> str | None:
    """'imagenet' where the folders in train/ are called as ImageNet's (n01440764); otherwise None."""
    return "imagenet" if named_by_wordnet(path / TRAIN) else None


def build(options: Options) -> Dataset:
    """All images of the folder, by name; none is opened unless bad ones are to be skipped.

    Raises: ConfigError without a root. DataError where the folder is not laid out as above, or a class is empty or
        unknown to training.
    """
    if options.root is None:
        raise ConfigError("the data set 'imagenet' needs to know where it is; give --data.root or --data PATH")
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; {_LAYOUT}")
    if not has_train(root):
        raise DataError(
            f"{root} has no class folders in {TRAIN}/; unpack each class into a folder of its own: {_LAYOUT}"
        )
    held_out = held_out_part(root)
    if held_out is None:
        raise DataError(_no_held_out(root, options.size))
    classes, train, test = given_parts(root, held_out, layout=_LAYOUT)
    return Dataset(
        name="imagenet",
        train=without_bad(
            few_shot(_files(train, options), options.train_per_class, seed=options.split_seed, classes=classes),
            options.on_bad_image,
            part="train",
        ),
        test=without_bad(_files(test, options), options.on_bad_image, part="test"),
        classes=classes,
        mean=_MEAN,
        std=_STD,
        augment=Augment(pad=0, flip=True, min_area=options.min_area),
        source=f"{root} ({TRAIN}/ and {held_out}/, {len(train.paths):,} + {len(test.paths):,} images)",
        preparation=Preparation(
            crop=(options.size, options.size),
            resize=options.resize,
            interpolation="bilinear",
            max_pixels=options.max_pixels,
        ),
    )


def _files(part: Part, options: Options) -> ImageFiles:
    return ImageFiles(
        part.paths, torch.tensor(part.labels), options.size, options.resize, options.max_pixels, options.workers
    )


def _no_held_out(root: Path, size: int) -> str:
    for place in (root / name for name in HELD_OUT):
        if loose := count_images(place):
            return (
                f"{place} holds {loose:,} images, but no class folders: so the official archive has it, and it says "
                f"nothing of the classes; move each image into {place}/CLASS/, as valprep.sh of "
                "https://github.com/soumith/imagenetloader.torch does, or let torchvision.datasets.ImageNet unpack "
                "the archives"
            )
    return (
        f"{root} has {TRAIN}/, but no class folders in {', '.join(f'{name}/' for name in HELD_OUT)}; add one, or have "
        f"a part of {TRAIN}/ held out: --data folder --data.root {root / TRAIN} --data.size {size} (all in memory)"
    )
