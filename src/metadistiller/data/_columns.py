"""Columns of somebody else's table: which holds the images and which the labels, and the classes that they name."""

import re
from collections.abc import Sequence

from ..errors import DataError

IMAGES = (
    *("image", "img", "path", "image_path", "img_path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image_file", "image_name", "jpg", "jpeg", "png"),
)
LABELS = ("label", "labels", "class", "class_name", "target", "category", "fine_label", "label_name", "cls")

_WHOLE = re.compile(r"-?\d+")


def column(names: Sequence[str], wanted: str | None, usual: Sequence[str], *, option: str, where: str) -> str:
    """The column `wanted`, or else the first that has a usual name, in whatever case.

    Args:
        option: with which it is named.
        where: the table, for the error.
    Raises: DataError naming the columns that are there.
    """
    there = ", ".join(map(repr, names)) or "none"
    if wanted is not None:
        if wanted in names:
            return wanted
        raise DataError(f"{where} has no column {wanted!r}, as data.{option} says; its columns are {there}")
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    found = next((by_lower[name] for name in usual if name in by_lower), None)
    if found is None:
        raise DataError(
            f"{where} has no column of a usual name ({', '.join(usual[:6])}, ...); its columns are {there}: "
            f"say which with --data.{option}"
        )
    return found


def class_names(values: Sequence[object], *, where: str) -> tuple[str, ...]:
    """The different labels as names: whole numbers by size, anything else by name. The order of rows is no matter.

    Raises: DataError where there are fewer than two, a row has none, or one cannot be a class's name.
    """
    names = set(as_names(values, where=where))
    for name in sorted(names):
        if "/" in name or "\\" in name or not name.isprintable():
            raise DataError(
                f"{where} has the label {name!r}, which is a path or has control characters; classes are named in "
                "reports and files: rename it, or say which column the labels are in"
            )
    if len(names) < 2:
        raise DataError(f"{where} has {len(names)} classes, 2 or more are needed; are the labels in another column?")
    if all(map(_WHOLE.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def numbered(values: Sequence[object], classes: Sequence[str], *, where: str) -> list[int]:
    """Each label's place among the classes. Raises: DataError where one is none of them."""
    number = {name: label for label, name in enumerate(classes)}
    labels = []
    for row, name in enumerate(as_names(values, where=where)):
        if name not in number:
            raise DataError(
                f"{where} row {row + 1} has class {name!r}, but the training set has not; "
                "add training images of it, or remove the row"
            )
        labels.append(number[name])
    return labels


def as_names(values: Sequence[object], *, where: str) -> list[str]:
    """Raises: DataError naming the first row without a label, or with one that is neither text nor a whole number."""
    names = []
    for row, value in enumerate(values):
        if value is None or value == "":
            raise DataError(f"{where} row {row + 1} has no label; give it one, or remove the row")
        if not isinstance(value, str | int):
            raise DataError(f"{where} row {row + 1} has the label {value!r}; labels are text or whole numbers")
        names.append(str(value))
    return names
