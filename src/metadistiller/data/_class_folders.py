"""Folders of images, one for each class: PLACE/CLASS/*, alone or as ROOT/train/CLASS/* and ROOT/val/CLASS/*.

Names that begin with a dot are ignored, and so are files that are not JPEG, PNG, BMP or WebP by their suffix. Folders
are listed and no file is looked at: with a million of them, a look at each would take minutes on a disk of the network.
"""

import os
import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from ..errors import DataError
from ._listing import Listing, Part

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TRAIN = "train"
HELD_OUT = ("val", "valid", "validation", "test")
_WORDNET = re.compile(r"n\d{8}")


def folders(place: Path) -> list[Path]:
    """The folders inside, by name; none where `place` is no folder."""
    return [place / entry.name for entry in _entries(place) if entry.is_dir()] if place.is_dir() else []


def has_train(root: Path) -> bool:
    """Whether ROOT/train holds folders; that tells the training part from a class of railway photographs."""
    return bool(folders(root / TRAIN))


def held_out_part(root: Path) -> str | None:
    """The first of val, valid, validation and test that holds folders."""
    return next((name for name in HELD_OUT if folders(root / name)), None)


def named_by_wordnet(place: Path) -> bool:
    """Whether all classes are called as ImageNet's are: n01440764."""
    found = folders(place)
    return bool(found) and all(_WORDNET.fullmatch(folder.name) for folder in found)


def count_images(place: Path) -> int:
    """Image files that lie directly in `place`; 0 where it is no folder."""
    return sum(map(_is_image, _entries(place))) if place.is_dir() else 0


def holds_images(place: Path) -> bool:
    """Whether there is an image in any class."""
    return any(map(count_images, folders(place)))


def class_folders(place: Path, *, layout: str) -> list[Path]:
    """Raises: DataError where there are fewer than two; `layout` says where the images should be."""
    found = folders(place)
    if len(found) < 2:
        loose = count_images(place)
        also = f" and {loose} images that are in none" if loose else ""
        raise DataError(f"{place} has {len(found)} class folders{also}, 2 or more are needed; {layout}")
    return found


def given_parts(root: Path, held_out: str, *, layout: str, source: str) -> Listing:
    """The images of ROOT/train and ROOT/`held_out`.

    Raises: DataError where there are fewer than two classes, one is empty, or one is held out and not in training.
    """
    found = class_folders(root / TRAIN, layout=layout)
    classes = tuple(folder.name for folder in found)
    tested = folders(root / held_out)
    known = set(classes)
    unknown = [folder.name for folder in tested if folder.name not in known]
    if unknown:
        raise DataError(
            f"{root / held_out} has class {unknown[0]!r}, but {root / TRAIN} has not; "
            "add training images of it, or remove it"
        )
    return Listing(classes, labelled(found, classes), labelled(tested, classes), source, (*found, *tested))


def labelled(found: Sequence[Path], classes: Sequence[str]) -> Part:
    """The images of class folders. Raises: DataError where one has none."""
    number = {name: label for label, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for folder in found:
        images = _images(folder)
        paths += images
        labels += [number[folder.name]] * len(images)
    return Part(paths, labels)


def unread(folders: Iterable[Path]) -> list[str]:
    """What lies in class folders and is passed over, but for hidden files: files of another kind, folders, links that
    lead nowhere.
    """
    return [entry.path for folder in folders for entry in _entries(folder) if not _is_image(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=attrgetter("name"))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def _images(folder: Path) -> list[str]:
    """The image files of one class. Raises: DataError where there is none."""
    entries = _entries(folder)
    found = [entry.path for entry in entries if _is_image(entry)]
    if found:
        return found
    seen = sorted({Path(entry.name).suffix.lower() or entry.name for entry in entries if entry.is_file()})
    if seen:
        raise DataError(
            f"{folder} has files of {', '.join(seen[:5])} only; images must be {', '.join(SUFFIXES)}: convert them"
        )
    inside = "only folders; put its images directly into it" if entries else "empty; add images or remove it"
    raise DataError(f"{folder} is {inside}")
