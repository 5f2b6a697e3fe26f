"""A held-out part where the data has none: a share of each class, drawn by a seed."""

from collections.abc import Sequence

import torch

from ..errors import DataError
from ._order import class_in_order


def drawn_parts(
    labels: Sequence[int], classes: Sequence[str], *, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Which images are for training and which are held out, class by class.

    Args:
        labels: of all images.
        classes: what an error calls each class.
        fraction: share of each class that is held out, rounded; in (0, 1). Both parts have one image of it at least.
    Raises: DataError where a class has a single image.
    """
    everything = torch.tensor(labels)
    training: list[int] = []
    testing: list[int] = []
    for label, name in enumerate(classes):
        members = class_in_order(everything, label, "split", seed=seed)
        count = len(members)
        if count < 2:
            raise DataError(f"{name} has 1 image; training and test need one each: add images or remove the class")
        held_out = min(max(round(count * fraction), 1), count - 1)
        testing += members[:held_out].sort().values.tolist()
        training += members[held_out:].sort().values.tolist()
    return training, testing
