"""Photographs by name, before any of them is decoded: what a source of files finds out first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

from ._base import few_shot_index


@dataclass(frozen=True)
class Part:
    """Images of one part and their labels; those of class folders class by class, in the order of the names.

    Attributes:
        paths: files, or names of images.
        labels: as many, 0 to C-1.
        opened: from an entry of `paths` to what is read (see ImageFiles).
    """

    paths: Sequence[str]
    labels: Sequence[int]
    opened: Callable[[str], str | BinaryIO] = str

    def take(self, index: Sequence[int]) -> "Part":
        return replace(self, paths=[self.paths[i] for i in index], labels=[self.labels[i] for i in index])


@dataclass(frozen=True)
class Listing:
    """What a source of photographs has.

    Attributes:
        classes: C names in the order of the labels.
        train, test: the two parts.
        source: where they came from, for the record.
        folders: the class folders that were looked into; none where the images are found in another way.
    """

    classes: tuple[str, ...]
    train: Part
    test: Part
    source: str
    folders: tuple[Path, ...] = ()

    def few_shot(self, per_class: int | None, *, seed: int) -> "Listing":
        """With `per_class` training images of each class, drawn by `seed`; all of them where per_class is None.

        Raises: DataError where a class has fewer.
        """
        if per_class is None:
            return self
        index = few_shot_index(torch.tensor(self.train.labels), per_class, seed=seed, classes=self.classes)
        return replace(self, train=self.train.take(index.tolist()))
