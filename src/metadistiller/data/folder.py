"""Your own photographs: one folder for each class, with or without a part that is held out.

    ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg     as they are (val, valid, validation or test)
    ROOT/CLASS/*.jpg                                    a share of each class is held out, drawn by split_seed

Where several held-out folders stand beside train/, the first of val, valid, validation and test is taken.
Names that begin with a dot are ignored, and so are files that are not JPEG, PNG, BMP or WebP by their suffix.
"""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from ..config import require
from ..errors import ConfigError, DataError
from ._bad_images import OnBadImage, kept, require_how
from ._base import Augment, Dataset, channel_statistics
from ._class_folders import (
    HELD_OUT,
    TRAIN,
    class_folders,
    given_parts,
    has_train,
    held_out_part,
    holds_images,
    labelled,
    named_by_wordnet,
)
from ._drawn import drawn_parts
from ._listing import Listing, Part
from ._pictures import LARGEST
from ._preparation import Preparation
from ._resident import ImageSet

NAMES: dict[str, dict[str, int]] = {"folder": {}}

_LAYOUT = "put the images into ROOT/train/CLASS/ and ROOT/val/CLASS/, or into ROOT/CLASS/ to have a part held out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be set.

    Args:
        root: the folder; required.
        size: pixels of a side of the square that every image is stored and shown at, 8 to 1024.
        train_per_class: so many training images of each class; null for all.
        split_seed: of the held-out part where the folder has none, and of train_per_class.
        val_fraction: share of each class that is held out where the folder has no such part, in (0, 1).
        min_area: smallest share of the image's area in a random resized crop of training, above 0 to 1; 1 for
            crops of full size from an image with a black border instead. Inception's 0.08 is for a million
            images; with few, 0.35 leaves more of the object.
        max_pixels: the largest image that is decoded; a decompressed image takes 3 bytes a pixel.
        max_resident_gib: memory that all images together may take, in GiB.
        on_bad_image: "error" stops and names the images that cannot be read; "skip" leaves them out of the test set,
            and in training the next sound one takes the place.
    """

    root: str | None = None
    size: int = 64
    train_per_class: int | None = None
    split_seed: int = 0
    val_fraction: float = 0.2
    min_area: float = 0.35
    max_pixels: int = 25_000_000
    max_resident_gib: float = 4.0
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        require(8 <= self.size <= 1024, "data.size", self.size, "take 8 to 1024 pixels")
        require(
            self.train_per_class is None or self.train_per_class >= 1,
            "data.train_per_class",
            self.train_per_class,
            "take 1 or more, or null",
        )
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "take above 0 and below 1")
        require(0 < self.min_area <= 1, "data.min_area", self.min_area, "take above 0 and at most 1")
        require(
            1 <= self.max_pixels <= LARGEST,
            "data.max_pixels",
            self.max_pixels,
            f"take 1 to {LARGEST}; larger images are better scaled down on disk",
        )
        require(self.max_resident_gib > 0, "data.max_resident_gib", self.max_resident_gib, "take a number above 0")
        require_how(self.on_bad_image)


def recognises(path: Path) -> str | None:
    """'folder' where `path` holds class folders with images, directly or below train/; otherwise None.

    What is laid out and named as ImageNet is that data set's own: 'imagenet'.
    """
    if not has_train(path):
        return "folder" if holds_images(path) else None
    place = path / TRAIN
    return "folder" if holds_images(place) and not named_by_wordnet(place) else None


def build(options: Options) -> Dataset:
    """All images of the folder, the short side resized to `size` and the middle cut out.

    Raises: as listing; DataError where an image is damaged or too large.
    """
    found = listing(options)
    train_images = _decode(found.train, options, part="train")
    mean, std = channel_statistics(train_images.images)
    return Dataset(
        name="folder",
        train=train_images,
        test=_decode(found.test, options, part="test"),
        classes=found.classes,
        mean=mean,
        std=std,
        # A resized crop moves the image by itself; a black border would add edges that no test image has.
        augment=Augment(pad=options.size // 8 if options.min_area == 1 else 0, flip=True, min_area=options.min_area),
        source=found.source,
        preparation=_preparation(options),
    )


def listing(options: Options) -> Listing:
    """Raises: ConfigError without a root. DataError where the folder is not laid out as above, a class is empty, too
    small or unknown to training, or all images take too much memory.
    """
    if options.root is None:
        raise ConfigError("the data set 'folder' needs to know which folder; give --data.root or --data PATH")
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; {_LAYOUT}")
    if has_train(root):
        held_out = held_out_part(root)
        if held_out is None:
            raise DataError(
                f"{root} has {TRAIN}/, but no class folders in {', '.join(f'{name}/' for name in HELD_OUT)}; "
                f"add one, or give {root / TRAIN} to have a part of it held out"
            )
        everything = given_parts(root, held_out, layout=_LAYOUT, source=f"{root} ({TRAIN}/ and {held_out}/)")
    else:
        everything = _drawn(root, options.val_fraction, options.split_seed)
    # Before anything is decoded: a few-shot study reads only the files that it uses.
    found = everything.few_shot(options.train_per_class, seed=options.split_seed)
    _check_memory(len(found.train.paths) + len(found.test.paths), options)
    return found


def _drawn(root: Path, fraction: float, seed: int) -> Listing:
    folders = class_folders(root, layout=_LAYOUT)
    classes = tuple(folder.name for folder in folders)
    everything = labelled(folders, classes)
    names = [str(folder) for folder in folders]
    training, testing = drawn_parts(everything.labels, names, fraction=fraction, seed=seed)
    source = f"{root} ({fraction:g} of each class held out by seed {seed})"
    return Listing(classes, everything.take(training), everything.take(testing), source, tuple(folders))


def _check_memory(count: int, options: Options) -> None:
    needed = count * 3 * options.size**2 / 2**30
    if needed > options.max_resident_gib:
        raise DataError(
            f"{count:,} images of {options.size}x{options.size} take {needed:.3g} GiB, but "
            f"data.max_resident_gib is {options.max_resident_gib:g}; raise it, or lower data.size or "
            "data.train_per_class"
        )


def _decode(files: Part, options: Options, *, part: Literal["train", "test"]) -> ImageSet:
    images = torch.empty(len(files.paths), 3, options.size, options.size, dtype=torch.uint8)
    preparation = _preparation(options)

    def store(number: int) -> str | None:
        try:
            images[number] = preparation.read(files.paths[number])
        # Damaged bytes make the decoders raise nearly anything, so nothing narrower would do.
        except Exception as error:
            return f"{files.paths[number]} ({error})"
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        found = enumerate(pool.map(store, range(len(files.paths))))
        bad = {number: message for number, message in found if message is not None}
    decoded = ImageSet(images, torch.tensor(files.labels), files.paths)
    if not bad:
        return decoded
    if options.on_bad_image == "skip":
        return decoded.take(kept(bad, len(decoded), part=part))
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    raise DataError(
        f"{len(bad)} of {len(decoded)} images cannot be read: {'; '.join(list(bad.values())[:10])}{more}; "
        "replace or remove them, or leave them out with --data.on_bad_image skip"
    )


def _preparation(options: Options) -> Preparation:
    return Preparation(crop=(options.size, options.size), max_pixels=options.max_pixels)
