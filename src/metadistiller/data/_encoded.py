"""Columns of an Arrow schema that hold encoded images, and labels that somebody has numbered and named."""

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ._columns import IMAGES, as_names, class_names, column


def image_column(schema: Any, wanted: str | None, *, where: str, otherwise: str = "") -> str:
    """The column `wanted`, or else the first of a usual name that holds bytes, alone or as {bytes, path}.

    Args:
        where: the table, for the error.
        otherwise: what else may be done where the column holds no bytes.
    Raises: DataError where there is none, or it holds no bytes.
    """
    holding = [field.name for field in schema if _holds_bytes(field.type)]
    usual = any(name.strip().lower() in IMAGES for name in holding)
    found = column(
        holding if usual and wanted is None else schema.names, wanted, IMAGES, option="image_column", where=where
    )
    if found not in holding:
        raise DataError(
            f"{where} has {schema.field(found).type} in its column {found!r}, not bytes of images; say which with "
            f"--data.image_column{otherwise}"
        )
    return found


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def row_names(values: Sequence[object], declared: Sequence[str], *, where: str) -> list[str]:
    """Each row's class by name, where `declared` are the names by number; none are for labels that are names already.

    Raises: DataError where two names are alike, or a label is none.
    """
    if len(set(declared)) < len(declared):
        raise DataError(f"{where} names two classes alike in its metadata; write it again with different names")
    if declared:
        values = [_declared(value, declared, f"{where} row {row + 1}") for row, value in enumerate(values)]
    return as_names(values, where=where)


def _declared(value: object, declared: Sequence[str], where: str) -> object:
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(declared):
        raise DataError(
            f"{where} has label {value}, but the metadata names classes 0 to {len(declared) - 1}; -1 is for images "
            "without a label: leave them out"
        )
    return declared[value]


def ordered_classes(names: Sequence[str], declared: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The different names of the training rows, in the declared order where there is one.

    Raises: DataError as class_names.
    """
    classes = class_names(names, where=where)
    return tuple(sorted(classes, key=declared.index)) if declared else classes
