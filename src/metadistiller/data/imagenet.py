"""ImageNet (ILSVRC 2012), or any set of photographs in its form, read from the files while it trains.

    ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG       val, valid, validation or test; the first that is there

Classes are numbered in the order of their folders' names, as torchvision's ImageFolder does. Nothing is decoded before
it is asked for, so the set may be larger than memory, and a damaged file shows when its turn comes.
Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015; https://www.image-net.org
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from ._base import Dataset
from ._class_folders import HELD_OUT, TRAIN, count_images, given_parts, has_train, held_out_part, named_by_wordnet
from ._listing import Listing
from ._photos import PhotoOptions, counted, photographs

NAMES: dict[str, dict[str, int]] = {"imagenet": {}}

_LAYOUT = "put the images into ROOT/train/CLASS/ and ROOT/val/CLASS/"


@dataclass(frozen=True, kw_only=True)
class Options(PhotoOptions):
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


def recognises(path: Path) -> str | None:
    """'imagenet' where the folders in train/ are called as ImageNet's (n01440764); otherwise None."""
    return "imagenet" if named_by_wordnet(path / TRAIN) else None


def build(options: Options) -> Dataset:
    """All images of the folder, by name; none is opened unless bad ones are to be skipped.

    Raises: as listing.
    """
    return photographs("imagenet", options, listing(options))


def listing(options: Options) -> Listing:
    """Raises: ConfigError without a root. DataError where the folder is not laid out as above, or a class is empty,
    too small or unknown to training.
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
    found = given_parts(root, held_out, layout=_LAYOUT, source=f"{root} ({TRAIN}/ and {held_out}/)")
    return counted(found, options)


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
