"""Runs that are no rows of the paper's tables, as the comparisons that they are: by setting, there by method."""

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metadistiller import paper
from metadistiller.errors import UnknownName
from metadistiller.ledger import Hardware, Record
from metadistiller.recipes import recipe
from metadistiller.recipes.paper import NAMES

from ._groups import Group, family, others, told

# A method that is not here comes after these, by its name.
METHODS = tuple(dict.fromkeys(method for found in paper.TABLES.values() for method in found.methods))


@dataclass(frozen=True)
class Row:
    """Runs of one method with one set of options, and a teacher of the same training where there is one.

    Attributes:
        label: as `metadistiller compare` calls it, METHOD or METHOD:OPTION=VALUE.
    """

    label: str
    runs: Group


@dataclass(frozen=True)
class Setting:
    """Runs of the same data, network, epochs and whatever else is not the method's, the seed or the machine.

    Attributes:
        recipe: that they are changed from; of the paper's recipes without the method.
        rows: in the order of the paper's methods, each first without options.
    """

    recipe: str
    epochs: int
    overrides: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def first(self) -> Record:
        return self.rows[0].runs.first

    @property
    def records(self) -> list[Record]:
        return [record for row in self.rows for record in row.runs.records]

    @property
    def machines(self) -> list[Hardware]:
        """The one that has run most of it first."""
        counts: dict[Hardware, int] = {}
        for record in self.records:
            counts[record.hardware] = counts.get(record.hardware, 0) + 1
        return sorted(counts, key=lambda machine: (-counts[machine], repr(machine)))

    @property
    def commands(self) -> list[str]:
        return sorted({record.command for record in self.records} - {""})

    def row(self, label: str) -> Group | None:
        return next((row.runs for row in self.rows if row.label == label), None)


def compared(record: Record) -> bool:
    """Whether a run can not stand beside the paper's: of another recipe, data, network or method than those there."""
    elsewhere = family(record.overrides, "data", "model") or "method.name" in record.overrides
    return record.recipe not in NAMES or bool(elsewhere)


def settings(records: Iterable[Record]) -> list[Setting]:
    """Of all runs that are compared here, by their heading; the same in whatever order the records come.

    Runs that stand beside the paper's are in it where the others have been trained as they were.
    """
    found: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        found.setdefault((base(record), record.epochs, told(_shared(record))), []).append(record)
    made = [_setting(same) for same in found.values() if any(map(compared, same))]
    return sorted(made, key=lambda setting: (heading(setting), setting.recipe, told(dict(setting.overrides))))


def _shared(record: Record) -> dict[str, Any]:
    return others(record.overrides, "method", "teacher")


def base(record: Record) -> str:
    """The recipe's name; of a row of the paper's tables without the method, which is what is compared."""
    if record.recipe not in NAMES:
        return record.recipe
    return record.recipe.removesuffix(f"_{NAMES[record.recipe]().method.name}")


def _setting(records: Sequence[Record]) -> Setting:
    sorted_in: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        # What a record says of its method depends on its recipe's.
        taught = [
            family(record.overrides, "teacher"),
            record.teacher and (record.teacher.network, record.teacher.epochs),
        ]
        changed = [record.recipe, dict(family(record.overrides, "method"))]
        sorted_in.setdefault((record.method, told(changed), told(taught)), []).append(record)
    groups = [
        Group(tuple(sorted(same, key=lambda record: (record.seed, record.date, record.id))))
        for same in sorted_in.values()
    ]
    labels = [_label(item, nulls=False) for item in groups]
    rows = [
        Row(label if labels.count(label) == 1 else _label(item, nulls=True), item)
        for label, item in zip(labels, groups, strict=True)
    ]
    first = records[0]
    return Setting(base(first), first.epochs, _shared(first), tuple(sorted(rows, key=_place)))


def _place(row: Row) -> tuple[int, str, int, str]:
    method = row.runs.first.method
    known = METHODS.index(method) if method in METHODS else len(METHODS)
    return known, method, row.label.count(":"), row.label


def _label(item: Group, *, nulls: bool) -> str:
    """Where the recipe is of another method, which of the options are not that method's defaults is known by the
    command alone: by the row of it that names these runs. Without such a one all of them are named.

    Args:
        nulls: whether to name options that are null too, as those are that a run is older than.
    """
    record = item.first
    options = [
        {
            key.removeprefix("method."): value
            for key, value in sorted(family(each.overrides, "method").items())
            if key != "method.name"
        }
        for each in item.records
    ]
    if "method.name" in record.overrides:
        options = [_said(each, given) for each, given in zip(item.records, options, strict=True)]
    shortest = min(options, key=lambda given: (len(given), told(given)))
    said = [f"{key}={told(value)}" for key, value in shortest.items() if nulls or value is not None]
    label = ":".join([record.method, *said])
    if record.teacher is not None:
        label += f" (teacher {record.teacher.network}, {record.teacher.epochs} epochs)"
    return label


def _said(record: Record, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the command's own row names."""
    found = []
    for row in _rows(record.command):
        name, *given = row.split(":")
        said = dict(option.partition("=")[::2] for option in given)
        if name == record.method and all(key in options and _means(said[key], options[key]) for key in said):
            found.append({key: options[key] for key in sorted(said)})
    return max(found, key=len) if found else dict(options)


def _rows(command: str) -> list[str]:
    """Of `metadistiller compare ... --methods A,B`."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    joined = [word.partition("=")[2] for word in words if word.startswith("--methods=")]
    apart = [value for word, value in itertools.pairwise(words) if word == "--methods"]
    return [row for value in (*joined, *apart) for row in value.split(",")]


def _means(word: str, value: Any) -> bool:
    """Whether a command's word is this value: 1 is 1.0, and True is true."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(word) == value
        except ValueError:
            return False
    return word.lower() == told(value).lower()


# -- as text ----------------------------------------------------------------------------------------------------------


def heading(setting: Setting) -> str:
    """'digits (train_per_class=10), resnet10 (width=16), 200 epochs'."""
    record = setting.first
    parts = [_member(setting, "data", record.data), _member(setting, "model", record.network)]
    parts.append(f"{record.epochs} epochs")
    parts += [f"{key}={told(value)}" for key, value in sorted(others(setting.overrides, "data", "model").items())]
    return ", ".join(parts)


def _member(setting: Setting, role: str, name: str) -> str:
    """A data set or a network with what is said of it: by the recipe, where that has the same one, and by the run."""
    options: dict[str, Any] = {}
    try:
        chosen = getattr(recipe(setting.first.recipe), role)
    except UnknownName:
        # Of another version, or somebody's own.
        chosen = None
    if chosen is not None and chosen.name == name:
        options |= chosen.options
    options |= {key.partition(".")[2]: value for key, value in family(setting.overrides, role).items()}
    said = [f"{key}={told(value)}" for key, value in sorted(options.items()) if value is not None and key != "name"]
    return f"{name} ({', '.join(said)})" if said else name


def chosen(records: Iterable[Record], *, recipe: str, epochs: int, overrides: Mapping[str, Any]) -> Setting | None:
    """The setting of a recipe's name, so many epochs and these changes that are not the method's; None without runs."""
    wanted = told(dict(overrides))
    for setting in settings(records):
        if (setting.recipe, setting.epochs, told(dict(setting.overrides))) == (recipe, epochs, wanted):
            return setting
    return None
