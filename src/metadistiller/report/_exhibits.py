"""What is drawn of a test image: which classes get a row, and which bars stand in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ._charts import FINAL_COLOUR, Distribution, exit_colour
from ._run import Exhibit
from ._tables import entropy

MOST_CLASSES = 9  # beside the true one


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a chart, from top to bottom.

    Attributes:
        classes: indices of those that have a row.
        names: of the rows; where classes are left out, the last row stands for all of them.
        true: which row is the true class.
    """

    classes: tuple[int, ...]
    names: tuple[str, ...]
    true: int

    def pick(self, shares: Sequence[float]) -> list[float]:
        """Of C probabilities one for each row."""
        picked = [shares[index] for index in self.classes]
        if len(self.names) == len(self.classes):
            return picked
        # Rounding must not make the rest less than nothing.
        return [*picked, max(0.0, 1 - sum(picked))]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is said at one depth of the network: soft target and exit, or the final output.

    Attributes:
        title: where.
        note: the entropies; T is the soft target, S the exit.
        distributions: over the rows, at least one.
    """

    title: str
    note: str
    distributions: tuple[Distribution, ...]


def rows_of(exhibit: Exhibit, classes: Sequence[str]) -> Rows:
    """The rows that suit all distributions of an exhibit, so that these can stand side by side."""
    shown = shown_classes(exhibit)
    names = [classes[index] for index in shown]
    if len(shown) < len(classes):
        names.append(f"{len(classes) - len(shown):,} others")
    return Rows(classes=tuple(shown), names=tuple(names), true=shown.index(exhibit.label))


def shown_classes(exhibit: Exhibit) -> list[int]:
    """All classes where they are few; of many, those with most mass in sum, and the true one."""
    indices = range(len(exhibit.final))
    if len(indices) <= MOST_CLASSES + 1:
        return list(indices)
    mass = [sum(column) for column in zip(exhibit.final, *exhibit.targets, *exhibit.exits, strict=True)]
    largest = sorted(indices, key=lambda index: -mass[index])[:MOST_CLASSES]
    return largest if exhibit.label in largest else [*largest, exhibit.label]


def stages_of(exhibit: Exhibit, rows: Rows) -> list[Stage]:
    """Shallow first, the final output last; a stage has what the method has: a soft target, an exit, or both."""
    stages = []
    for k in range(1, max(len(exhibit.targets), len(exhibit.exits)) + 1):
        said = [(name, shares[k - 1]) for name, shares in (("T", exhibit.targets), ("S", exhibit.exits)) if shares]
        stages.append(_stage(f"Stage {k}", said, rows, exit_colour(k)))
    return [*stages, _stage("Final output", [("", exhibit.final)], rows, FINAL_COLOUR)]


def _stage(title: str, said: Sequence[tuple[str, tuple[float, ...]]], rows: Rows, colour: str) -> Stage:
    entropies = ", ".join(f"{name} {entropy(shares):.2f}".strip() for name, shares in said)
    return Stage(
        title=title,
        note=f"entropy: {entropies} nats",
        distributions=tuple(
            Distribution(
                name=f"{title}, {name}" if name else title,
                shares=rows.pick(shares),
                colour=colour,
                outlined=name == "S",
            )
            for name, shares in said
        ),
    )
