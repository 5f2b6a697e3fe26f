"""Runs of the ledger in groups that differ in seed and machine alone, and what can be said of two such groups."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metadistiller.ledger import Record
from metadistiller.paired import Difference, paired_difference
from metadistiller.paper import Output

from ._markdown import text
from ._tables import spread


@dataclass(frozen=True)
class Group:
    """Runs of one recipe with the same epochs, the same overrides, and teachers of the same epochs.

    Attributes:
        records: by seed, and of each seed the earliest first, for several machines may have run it; at least one.
    """

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def teacher_epochs(self) -> int | None:
        return self.first.teacher.epochs if self.first.teacher else None

    @property
    def in_full(self) -> bool:
        """Whether the runs are exactly what their recipe says."""
        full = self.first.paper_epochs
        return not self.first.overrides and self.first.epochs == full and self.teacher_epochs in (None, full)

    @property
    def counted(self) -> tuple[Record, ...]:
        """The earliest run of each seed: the same seed on a second machine is no second seed."""
        found: dict[int, Record] = {}
        for record in self.records:
            found.setdefault(record.seed, record)
        return tuple(found.values())

    def values(self, output: Output) -> list[float]:
        """Percent, of `counted`; none of the ensemble where there is nothing but the final output."""
        return [getattr(record, output) for record in self.counted] if self.has(output) else []

    def has(self, output: Output) -> bool:
        return output == "final" or bool(self.first.exits)


def family(overrides: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those overrides that are options of these families, such as "method"."""
    return {key: value for key, value in overrides.items() if key.partition(".")[0] in names}


def others(overrides: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those overrides that are not."""
    return {key: value for key, value in overrides.items() if key.partition(".")[0] not in names}


def told(value: object) -> str:
    """A setting's value as config.yaml's readers know it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def group(records: Iterable[Record]) -> dict[str, list[Group]]:
    """By recipe; of each the full runs first, then unchanged ones, then the longest, then those of most seeds."""
    sorted_in: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        settings = told(dict(record.overrides))
        teacher = record.teacher.epochs if record.teacher else None
        sorted_in.setdefault((record.recipe, record.epochs, teacher, settings), []).append(record)

    def preference(item: Group) -> tuple[Any, ...]:
        overrides = item.first.overrides
        length = (-item.first.epochs, -(item.teacher_epochs or 0), -len(item.counted))
        return (not item.in_full, bool(overrides), *length, told(dict(overrides)))

    groups: dict[str, list[Group]] = {}
    for same in sorted_in.values():
        found = Group(tuple(sorted(same, key=lambda record: (record.seed, record.date, record.id))))
        groups.setdefault(found.first.recipe, []).append(found)
    return {recipe: sorted(groups[recipe], key=preference) for recipe in sorted(groups)}


def shown(groups: Mapping[str, list[Group]], recipe: str) -> Group | None:
    """The group that stands in a table for a recipe: another method's options would make it another method."""
    return next((item for item in groups.get(recipe, []) if not family(item.first.overrides, "method")), None)


def counterpart(item: Group, candidates: Iterable[Group]) -> Group | None:
    """The group that was trained as `item` was, as far as it goes: what a method or a teacher brings is its own."""
    for other in candidates:
        same = others(other.first.overrides, "teacher") == others(item.first.overrides, "method", "teacher")
        if same and other.first.epochs == item.first.epochs:
            return other
    return None


def difference(ours: Group, theirs: Group, output: Output) -> tuple[Difference, int] | None:
    """Of ours - theirs over their common seeds, and how many those are; None where there are none."""
    found = _pairs(ours, theirs) if ours.has(output) and theirs.has(output) else []
    if not found:
        return None
    values = [(getattr(mine, output), getattr(its, output)) for mine, its in found]
    return paired_difference([mine for mine, _ in values], [its for _, its in values]), len(found)


def _pairs(ours: Group, theirs: Group) -> list[tuple[Record, Record]]:
    """One for each common seed: on the same hardware where there is such a pair, otherwise of the earliest runs."""
    found = []
    for first in ours.counted:
        every = [(mine, its) for mine in ours.records for its in theirs.records if mine.seed == its.seed == first.seed]
        same = [pair for pair in every if pair[0].hardware == pair[1].hardware]
        found += (same or every)[:1]
    return found


# -- as text ----------------------------------------------------------------------------------------------------------


def epochs_of(record: Record) -> str:
    """'200 epochs', or '3 of 200 epochs' for a run that is shorter than its recipe."""
    if record.epochs == record.paper_epochs:
        return f"{record.epochs} epochs"
    return f"{record.epochs} of {record.paper_epochs} epochs"


def marks(item: Group) -> list[str]:
    """In what the group is not the recipe: nothing for a full run."""
    record = item.first
    found = [epochs_of(record)] if record.epochs != record.paper_epochs else []
    if item.teacher_epochs is not None and item.teacher_epochs != record.paper_epochs:
        found.append(f"teacher {item.teacher_epochs} of {record.paper_epochs}")
    changed = [f"{key}={text(told(value))}" for key, value in sorted(record.overrides.items())]
    if len(", ".join(changed)) > 60:
        return [*found, f"{len(changed)} settings changed, see the runs"]
    return [*found, *changed]


def accuracy(item: Group | None, output: Output, *, marked: bool = True) -> str:
    """'79.05 ± 0.21 (3)': mean, deviation and number of seeds, and, if `marked`, in what it is not the recipe's run."""
    values = item.values(output) if item else []
    if item is None or not values:
        return ""
    return f"{spread(values)} ({'; '.join([str(len(values)), *(marks(item) if marked else [])])})"


def gain(ours: Group | None, theirs: Group | None, output: Output, *, marked: bool = True) -> str:
    """'+1.02 (+0.41 to +1.63; 3)': the paired difference with its 95 % interval and the number of pairs."""
    found = difference(ours, theirs, output) if ours and theirs else None
    if ours is None or found is None:
        return ""
    value, count = found
    pairs = [] if value.interval is None else [str(count)]
    return value.told(*pairs, *(marks(ours) if marked else []))
