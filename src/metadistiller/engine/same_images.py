"""A run's images are the ones that it began with: whoever goes on with it, or asks it, is told where they are not.

The order of images, what is held out and what a folder without val/ is tested on follow from how many there are and of
which class. A picture more, and a run that goes on would train on what it is tested on.
"""

from collections.abc import Mapping
from typing import Any

from ..data import Dataset
from ..errors import DataError
from ..ranks import ALONE, Ranks
from ..records import RunFolder


def known_images(folder: RunFolder) -> dict[str, Any] | None:
    """What Dataset.contents was when the run began; None of a run that has not, or that is older than this record."""
    return next((event["images"] for event in folder.read_events() if "images" in event), None)


def check_same_images(dataset: Dataset, folder: RunFolder, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Returns: Dataset.contents, for the record.

    Args:
        ranks: that train on it together; each has read the data set by itself.
    Raises: DataError, on every rank, where one of them has other images than the first, or the first others than the
        run began with.
    """
    here = dataset.contents()
    first, before = ranks.first_says(lambda: [here, known_images(folder)])
    if ranks.any(first != here):
        raise DataError(
            f"{dataset.name}: the ranks have read different images (the first {_told(first)}, this one {_told(here)}); "
            f"let all of them have the same {dataset.source}"
        )
    if before is not None and before != here:
        told = (_told(before), _told(here))
        what = "{} then, {} now".format(*told) if told[0] != told[1] else f"{told[0]}, of other classes or labels"
        network = f"; {folder.weights} answers without them" if folder.weights.exists() else ""
        raise DataError(
            f"{dataset.name}: the images are not those that {folder} was begun with ({what}); put those back, or start "
            f"a new run{network}"
        )
    return here


def _told(contents: Mapping[str, Any]) -> str:
    return "{train:,} training and {test:,} test images of {classes:,} classes".format(**contents)
