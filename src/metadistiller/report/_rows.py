"""Several runs side by side, as rows: single ones, or those of one method with several seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metadistiller.paired import mean_and_deviation, paired_difference

from ._charts import Chart, Line, lines, row_style, short
from ._diagrams import NAME_LENGTH
from ._run import Run, Series
from ._tables import told


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        name: of the row.
        place: in the order of all rows, from 0; it has its colour by it on every chart.
        runs: by seed; of a run that stands for itself by 0. Empty where none is finished.
        links: to the page of each run, by seed, where there is one.
        teaches: whether it is the teacher of other rows, and no row to compare.
    """

    name: str
    place: int
    runs: Mapping[int, Run]
    links: Mapping[int, str]
    teaches: bool = False

    def values(self, key: str) -> dict[int, float]:
        """Of a number in result.json, by seed."""
        return {seed: float(getattr(run.result, key)) for seed, run in self.runs.items()}

    @property
    def every(self) -> list[Run]:
        return list(self.runs.values())


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """'+1.02 (+0.41 to +1.63)': over common seeds, with the 95 % interval where there are several."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return "–"
    return paired_difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]).told()


# -- settings ---------------------------------------------------------------------------------------------------------


def differing(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[str]]]]:
    """Settings that are not the same in all rows, by dotted name, with what each row has: `shared` are those that all
    have, `others` what only some have.
    """
    flat = [dict(_flat(row.every[0].values)) for row in rows if row.runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    # The seeds of a row of several are its own affair.
    alone = all(len(row.runs) < 2 for row in rows)
    found: dict[str, list[tuple[str, list[str]]]] = {"shared": [], "others": []}
    for name in names:
        cells = [told(each[name]) if name in each else "–" for each in flat]
        if len(set(cells)) > 1 and (alone or name != "seed"):
            found["shared" if all(name in each for each in flat) else "others"].append((told(name), cells))
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            inner = dict(value)
            # "method" rather than "method.name", as the command line has it.
            if "name" in inner:
                yield name, inner.pop("name")
            yield from _flat(inner, f"{name}.")
        elif value is not None or not prefix:
            yield name, value


# -- curves -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    ("final", "Final accuracy", "top-1 in %", ""),
    ("ensemble", "Accuracy of the ensemble", "top-1 in %", "Of methods that have exits."),
    ("test_loss", "Loss on the test set", "nats", "Cross-entropy of the final output."),
    ("final_hard", "Loss on training images", "nats", "Cross-entropy of the final output with the labels."),
    ("loss", "Training loss", "loss", "All that is minimised, summed: of other parts for another method."),
)


def overlays(rows: Sequence[Row]) -> list[Chart]:
    """What the rows have in common, over epochs: the mean over seeds, with one deviation to either side."""
    charts = []
    for column, title, unit, note in COLUMNS:
        curves = [
            line
            for row in rows
            if (line := _mean(row, column)) and (column != "ensemble" or any(run.result.exits for run in row.every))
        ]
        if curves:
            banded = "Bands: one standard deviation over seeds." if any(curve.low for curve in curves) else ""
            charts.append(lines(curves, title=title, unit=unit, note=" ".join(filter(None, (note, banded)))))
    return charts


def _mean(row: Row, column: str) -> Line | None:
    found = [run.series[column] for run in row.every if column in run.series]
    points = [dict(zip(series.epochs, series.values, strict=True)) for series in found]
    epochs = sorted(set.intersection(*map(set, points))) if points else []
    if not epochs:
        return None
    spreads = [mean_and_deviation([each[epoch] for each in points]) for epoch in epochs]
    means = tuple(mean for mean, _ in spreads)
    colour, dashes = row_style(row.place)
    banded = len(points) > 1
    return Line(
        name=short(row.name, NAME_LENGTH),
        series=Series(epochs=tuple(epochs), values=means),
        colour=colour,
        dashes=dashes,
        low=[mean - (deviation or 0) for mean, deviation in spreads] if banded else (),
        high=[mean + (deviation or 0) for mean, deviation in spreads] if banded else (),
    )
