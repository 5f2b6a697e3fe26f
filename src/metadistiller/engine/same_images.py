"""A run's images are the ones that it began with: whoever goes on with it, or asks it, is told where they are not.

The order of images, what is held out and what a folder without val/ is tested on follow from how many there are, of
which class and in which order. A file more, or one of another name, and a run that goes on would train on images that
it is tested on.
"""

from collections.abc import Mapping
from typing import Any

from ..data import Dataset
from ..errors import DataError
from ..ledger import is_same_everywhere
from ..ranks import ALONE, Ranks
from ..records import RunFolder


def known_images(folder: RunFolder) -> dict[str, Any] | None:
    """Dataset.contents of what the run began with; None of one that has not begun, or that began before they were
    recorded.
    """
    return next((event.get("images") for event in folder.read_events() if event["event"] in ("start", "resume")), None)


def check_ranks(dataset: Dataset, ranks: Ranks) -> dict[str, Any]:
    """Returns: Dataset.contents, for the record. Raises: DataError, on all ranks, where one has others than the first.

    Args:
        ranks: that train on it together; each has read the data set by itself.
    """
    here = dataset.contents()
    first = ranks.first_says(lambda: here)
    if ranks.any(first != here):
        raise DataError(
            f"{dataset.name}: the ranks have read different images (the first {told(first)}, this one {told(here)}); "
            f"let all of them have the same {dataset.source}"
        )
    return here


def check_same_images(dataset: Dataset, folder: RunFolder, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Returns: Dataset.contents, for the record.

    Raises: DataError, on all ranks, where a run began with other images, or as check_ranks.
    """
    here, before = check_ranks(dataset, ranks), ranks.first_says(lambda: known_images(folder))
    if before is not None and before != here:
        raise DataError(
            f"{dataset.name}: the images are not those that {folder} was begun with ({difference(before, here)}); put "
            "those back, or start a new run with another --out"
        )
    return here


def check_same_test(dataset: Dataset, teacher: RunFolder) -> None:
    """Raises: DataError where a teacher was tested on other images, and so may have been trained on these.

    What it was trained on may be more than the student is. Of a public data set, whose copies may have it in another
    order, the number of test images alone is asked.
    """
    before, here = known_images(teacher), dataset.contents()
    keys = ("test", "classes") if is_same_everywhere(dataset.name) else ("test", "classes", "test_sha256")
    if before is not None and any(before[key] != here[key] for key in keys):
        raise DataError(
            f"{dataset.name}: the teacher {teacher} was not tested on the images that this run is tested on "
            f"({difference(before, here)}), and may have been trained on them; train a teacher on the same data"
        )


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, of two data sets that are not the same."""
    if told(before) != told(now):
        return f"{told(before)} then, {told(now)} now"
    return f"{told(now)} as then, of other names or labels, or in another order"


def told(contents: Mapping[str, Any]) -> str:
    """How much it is, in words."""
    return "{train:,} training and {test:,} test images of {classes:,} classes".format(**contents)
