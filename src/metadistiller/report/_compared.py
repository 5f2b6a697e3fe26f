"""Runs that are no rows of the paper's tables, as the comparisons that they are: by setting, there by method."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metadistiller import paper
from metadistiller.config import OF_A_ROW
from metadistiller.ledger import Hardware, Record
from metadistiller.recipes.paper import NAMES

from ._effective import ROW_DEFAULTS, Effective, effective, key
from ._groups import Group, family, others, told

# A method that is not here comes after these, by its name.
METHODS = tuple(dict.fromkeys(method for found in paper.TABLES.values() for method in found.methods))


@dataclass(frozen=True)
class Row:
    """Runs of one method with one set of options, and a teacher of the same training where there is one.

    Attributes:
        label: METHOD or METHOD:OPTION=VALUE, as `metadistiller compare` takes it; no other row of the setting has it.
            An option is the method's, or of what it learned from (OF_A_ROW) where rows differ in that.
        of_row: what of the label is of the latter kind, ':label_smoothing=0.1'; empty where there is nothing.
        learned: the same text for rows that learned from the same.
    """

    label: str
    runs: Group
    of_row: str
    learned: str


@dataclass(frozen=True)
class Setting:
    """Runs of the same data, network, epochs and whatever else is not the row's, the seed or the machine, whatever
    recipes they were started from.

    Attributes:
        heading: no other setting has it.
        recipes: those; of the paper's recipes without the method.
        rows: in the order of the paper's methods, each first without options.
    """

    heading: str
    recipes: tuple[str, ...]
    rows: tuple[Row, ...]

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
        """The one that has made most of it first."""
        counts = Counter(record.command for record in self.records if record.command)
        return sorted(counts, key=lambda command: (-counts[command], command))

    def baseline(self, method: str, row: Row) -> Row | None:
        """What a row is compared with: the method without options that learned from the same.

        Where there is none, or that is the row itself, the one that learned from what most runs here did. None where
        that is the row itself, or there is nothing.
        """
        found = [other for other in self.rows if other.label == method + other.of_row]
        same = [other for other in found if other.learned == row.learned and other is not row]
        if same or not found:
            return next(iter(same), None)
        common = min(found, key=lambda other: (-self._count(other.learned), len(other.label), other.label))
        return None if common is row else common

    def _count(self, learned: str) -> int:
        return sum(len(row.runs.records) for row in self.rows if row.learned == learned)

    def weighable(self, runs: Group) -> list[Record]:
        """Those on the machine that has run most of it: seconds of two machines have no mean."""
        return [record for record in runs.records if record.hardware == self.machines[0]]


def named(other: Row, row: Row, method: str) -> str:
    """' to plain:label_smoothing=0.1', for a difference to a row that is neither called by the method alone nor learned
    from the same; else nothing."""
    return "" if other.label == method or other.learned == row.learned else f" to {other.label}"


def compared(record: Record) -> bool:
    """Whether a run can not stand beside the paper's: of another recipe, data, network or method than those there."""
    elsewhere = family(record.overrides, "data", "model") or "method.name" in record.overrides
    return record.recipe not in NAMES or bool(elsewhere)


def settings(records: Iterable[Record]) -> list[Setting]:
    """Of all runs that are compared here, by their heading; the same in whatever order the records come.

    Runs that stand beside the paper's are in it where the others have been trained as they were.
    """
    found: dict[str, list[tuple[Effective, Record]]] = {}
    for record in records:
        whole = effective(record)
        where = key([record.network, record.data, record.epochs, whole.data, whole.model, whole.rest])
        found.setdefault(where, []).append((whole, record))
    made = [found[where] for where in sorted(found) if any(compared(record) for _, record in found[where])]
    headings = _apart([_headings(same) for same in made])
    return sorted(map(_setting, headings, made), key=lambda setting: setting.heading)


def _setting(heading: str, runs: Sequence[tuple[Effective, Record]]) -> Setting:
    found: dict[str, list[tuple[Effective, Record]]] = {}
    for whole, record in runs:
        trained = record.teacher and [record.teacher.network, record.teacher.epochs]
        found.setdefault(key([record.method, whole.method, whole.row, whole.teacher, trained]), []).append(
            (whole, record)
        )
    made = [found[which] for which in sorted(found)]
    firsts = [min(same, key=lambda run: told(asdict(run[0]))) for same in made]
    of_rows = [_of_row(whole, runs) for whole, _ in firsts]
    labels = _apart([_labels(*run, of_row) for run, of_row in zip(firsts, of_rows, strict=True)])
    groups = [
        Group(tuple(sorted((record for _, record in same), key=lambda record: (record.seed, record.date, record.id))))
        for same in made
    ]
    recipes = tuple(sorted({base(record) for _, record in runs}))
    learned = [key(whole.row) for whole, _ in firsts]
    return Setting(heading, recipes, tuple(sorted(map(Row, labels, groups, of_rows, learned), key=_place)))


def _given_to_all(runs: Sequence[tuple[Effective, Record]]) -> dict[str, Any]:
    """Of the settings that rows may differ in, those that all runs have been given alike: they are the whole's."""
    given = [family(record.overrides, *OF_A_ROW) for _, record in runs]
    return {name: value for name, value in given[0].items() if all(_is(each, name, value) for each in given)}


def _of_row(whole: Effective, runs: Sequence[tuple[Effective, Record]]) -> str:
    """':label_smoothing=0.1': what this row learned from and not all did, where it is not what a run has by itself."""
    said = (
        f":{name}={told(value)}"
        for name, value in sorted(whole.row.items())
        if not _is(ROW_DEFAULTS, name, value) and not all(_is(other.row, name, value) for other, _ in runs)
    )
    return "".join(said)


def _is(settings: Mapping[str, Any], name: str, value: Any) -> bool:
    return name in settings and key(settings[name]) == key(value)


def _place(row: Row) -> tuple[int, str, int, str]:
    method = row.runs.first.method
    known = METHODS.index(method) if method in METHODS else len(METHODS)
    return known, method, row.label.count(":"), row.label


def base(record: Record) -> str:
    """The recipe's name; of a row of the paper's tables without the method, which is what is compared."""
    if record.recipe not in NAMES:
        return record.recipe
    return record.recipe.removesuffix(f"_{NAMES[record.recipe]().method.name}")


def chosen(records: Iterable[Record], *, recipe: str, epochs: int, overrides: Mapping[str, Any]) -> Setting | None:
    """The setting with a run of a recipe's name, so many epochs and these changes that are not the method's; None
    without.
    """

    def is_meant(record: Record) -> bool:
        changed = others(record.overrides, "method", "teacher", *OF_A_ROW)
        return record.epochs == epochs and base(record) == recipe and key(changed) == key(dict(overrides))

    return next((setting for setting in settings(records) if any(map(is_meant, setting.records))), None)


# -- as text ----------------------------------------------------------------------------------------------------------


def _apart(named: Sequence[Sequence[str]]) -> list[str]:
    """A name for each, and no two the same: the first of its names, shortest first, that does it, or a number behind.

    Args:
        named: names of each, in an order that does not depend on the order of entry; of all as many.
    """
    depth = [0] * len(named)
    while True:
        shown = [names[place] for names, place in zip(named, depth, strict=True)]
        deeper = [
            shown.count(name) > 1 and place + 1 < len(names)
            for name, place, names in zip(shown, depth, named, strict=True)
        ]
        if not any(deeper):
            break
        depth = [place + more for place, more in zip(depth, deeper, strict=True)]
    found: list[str] = []
    for place, name in enumerate(shown):
        again, number = name, 1
        while again in found or (again != name and again in shown[place:]):
            number += 1
            again = f"{name} ({number})"
        found.append(again)
    return found


def _labels(whole: Effective, record: Record, of_row: str) -> list[str]:
    """Options that are null are not named where that will do: those are such that a run is older than."""

    def label(nulls: bool, with_teacher: Callable[[], str]) -> str:
        said = [f"{name}={told(value)}" for name, value in sorted(whole.method.items()) if nulls or value is not None]
        return ":".join([record.method, *said]) + of_row + with_teacher()

    def trained() -> str:
        taught = record.teacher
        return f" (teacher {taught.network}, {taught.epochs} epochs)" if taught else ""

    def with_options() -> str:
        name = record.teacher.network if record.teacher else whole.teacher.get("name", "")
        options = _said({key: value for key, value in whole.teacher.items() if key != "name"}, nulls=True)
        if record.teacher:
            return f" (teacher {name}{options}, {record.teacher.epochs} epochs)"
        return f" (beside {name}{options})" if whole.teacher else ""

    return [label(False, trained), label(True, trained), label(True, with_options)]


def _headings(runs: Sequence[tuple[Effective, Record]]) -> list[str]:
    """'digits (train_per_class=10), resnet10 (width=16), 200 epochs'."""
    # What is said of one, by its own recipe, holds for all of them.
    whole, record = min(runs, key=lambda run: (len(_rest_of(run[1])), base(run[1]), _told_of(*run)))

    def heading(nulls: bool) -> str:
        parts = [record.data + _said(whole.data, nulls=nulls), record.network + _said(whole.model, nulls=nulls)]
        parts.append(f"{record.epochs} epochs")
        rest = _rest_of(record) | _given_to_all(runs)
        return ", ".join([*parts, *(f"{name}={told(value)}" for name, value in sorted(rest.items()))])

    return [heading(False), heading(True), f"{heading(True)}, else as {base(record)}"]


def _told_of(whole: Effective, record: Record) -> str:
    return told([whole.data, whole.model, _rest_of(record)])


def _rest_of(record: Record) -> dict[str, Any]:
    return others(record.overrides, "data", "model", "method", "teacher", *OF_A_ROW)


def _said(options: Mapping[str, Any], *, nulls: bool) -> str:
    said = [f"{name}={told(value)}" for name, value in sorted(options.items()) if nulls or value is not None]
    return f" ({', '.join(said)})" if said else ""
