"""What a run was set to, whatever recipe it was started from: the recipe's settings with its own in their place."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from metadistiller.config import OF_A_ROW, Choice, Config
from metadistiller.errors import UnknownName
from metadistiller.ledger import Record, of_training
from metadistiller.recipes import recipe

from ._groups import family, others

ROLES = ("data", "model", "method", "teacher")


@dataclass(frozen=True)
class Effective:
    """The settings of a run as far as the ledger and its recipe know them: defaults of its members are left out.

    An option that a run has set back to the default, where its recipe has another value, is still among them: what the
    default is nobody can say without the method.

    Attributes:
        data, model, method: options.
        teacher: name and options; empty without one.
        row: settings in which rows of a comparison may differ (OF_A_ROW).
        rest: everything else but the seed, the epochs, and where and how it was computed.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    method: dict[str, Any]
    teacher: dict[str, Any]
    row: dict[str, Any]
    rest: dict[str, Any]


def effective(record: Record) -> Effective:
    """Of a recipe that is not known here, of another version or somebody's own, its name stands for its settings."""
    changed = record.overrides
    found: Config | None = None
    with suppress(UnknownName):
        found = recipe(record.recipe)
    rest = ({"recipe": record.recipe} if found is None else _rest(found)) | others(changed, *ROLES)
    return Effective(
        data=_options(found.data if found else None, record.data) | _changed(record, "data"),
        model=_options(found.model if found else None, record.network) | _changed(record, "model"),
        method=_options(found.method if found else None, record.method) | _changed(record, "method"),
        teacher=_teacher(found, record),
        row=family(rest, *OF_A_ROW),
        rest=others(rest, *OF_A_ROW),
    )


def _options(chosen: Choice | None, name: str) -> dict[str, Any]:
    return dict(chosen.options) if chosen is not None and chosen.name == name else {}


def _changed(record: Record, role: str) -> dict[str, Any]:
    options = {key.partition(".")[2]: value for key, value in family(record.overrides, role).items()}
    options.pop("name", None)
    return options


def _teacher(found: Config | None, record: Record) -> dict[str, Any]:
    changed = family(record.overrides, "teacher")
    if "teacher" in changed:
        return {}
    chosen = found.teacher if found else None
    name = changed.get("teacher.name", chosen and chosen.name)
    # One of which nothing is said but its options is an unknown recipe's.
    named = {"name": name} if name is not None else {}
    return named | (_options(chosen, name) if name is not None else {}) | _changed(record, "teacher")


def _rest(found: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in found.as_dict().items():
        if key not in ROLES:
            inner = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
            flat |= inner
    return of_training(flat)


# What a run learns from where nothing is said, by dotted name; the members play no part in it.
ROW_DEFAULTS = family(
    _rest(Config(data=Choice(name="digits"), model=Choice(name="resnet10"), method=Choice(name="plain"))), *OF_A_ROW
)


def key(value: object) -> str:
    """The same text for the same settings: 1 is 1.0, and a tuple a list."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
