"""The evidence page's comparisons: methods in settings that the paper's tables do not have, and what their soft targets
were over training."""

from collections.abc import Iterable, Sequence

from metadistiller.ledger import Record, TargetsAt
from metadistiller.paired import mean_and_deviation

from ._compared import Row, Setting, heading
from ._cost import machine
from ._groups import Group, gain
from ._markdown import code, table, text

INTRO = """\
Methods compared in settings that are not the paper's: other data, another network, other recipes. No number of the
paper stands beside them. A row is named as `metadistiller compare` names it, METHOD:OPTION=VALUE; n is the number of
seeds, exits are means, shallow first, and final and ensemble have their sample standard deviation. − is the difference
of the final output, percentage points, paired by seed, with its 95 % interval and the number of pairs. Hours, memory
and cost (×, against plain training) are means over the runs on the machine that is named first."""

HEADINGS = (
    *("method", "n", "exits", "final", "ensemble", "− plain", "− dsn", "− self_distillation"),
    *("hours", "×", "MiB"),
)
BASELINES = ("plain", "dsn", "self_distillation")
MOST_COMMANDS = 4

CURVE = """\
Soft targets over training, on training images, means over seeds; T_1 first. The held-out loss and the alignments are of
the latest epoch in which the generator learned."""

CURVE_HEADINGS = (
    *("method", "epochs", "generator steps", "accuracy, %", "entropy, nats", "confidence"),
    *("held-out loss, nats", "target alignment", "label alignment"),
)


def comparisons(found: Sequence[Setting]) -> list[str]:
    """One subsection a setting; none without runs."""
    return ["## Comparisons", INTRO, *(part for setting in found for part in _of(setting))] if found else []


def _of(setting: Setting) -> list[str]:
    machines = setting.machines
    where = "; ".join(machine(hardware) for hardware in machines)
    rows = [_row(setting, row) for row in setting.rows]
    curve = [line for row in setting.rows for line in _curve(row)]
    return [
        f"### {text(heading(setting))}",
        f"Recipe {text(setting.recipe)}; {where}.",
        table(HEADINGS, rows, left=1),
        *([CURVE, table(CURVE_HEADINGS, curve, left=1)] if curve else []),
        *_commands(setting.commands),
    ]


def _commands(commands: Sequence[str]) -> list[str]:
    """Runs that were not begun by one command have one each, which are too many to read."""
    shown = commands if len(commands) <= MOST_COMMANDS else commands[:1]
    more = len(commands) - len(shown)
    said = [f"Command: {code(command, limit=2000)}" for command in shown]
    return [*said, f"And {more} others like it, in the ledger."] if more else said


def _row(setting: Setting, row: Row) -> list[str]:
    main = setting.machines[0]
    here = [record for record in row.runs.records if record.hardware == main]
    plain = setting.row("plain")
    beside = [record for record in plain.records if record.hardware == main] if plain else []
    seconds = _mean(record.seconds for record in here)
    theirs = _mean(record.seconds for record in beside)
    memory = _mean(record.peak_memory_mb for record in here)
    counted = row.runs.counted
    exits = zip(*(record.exits for record in counted), strict=True)
    return [
        text(row.label),
        str(len(counted)),
        " / ".join(f"{mean_and_deviation(values)[0]:.2f}" for values in exits),
        spread(row.runs, "final"),
        spread(row.runs, "ensemble"),
        *(
            "" if row.label == other else gain(row.runs, setting.row(other), "final", marked=False)
            for other in BASELINES
        ),
        "" if seconds is None else hours(seconds),
        f"{seconds / theirs:.2f}" if seconds is not None and theirs else "",
        "" if memory is None else f"{memory:,.0f}",
    ]


def spread(runs: Group, output: str) -> str:
    """'90.89 ± 1.60'; nothing where there is no such output."""
    values = runs.values("ensemble" if output == "ensemble" else "final")
    if not values:
        return ""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def hours(seconds: float) -> str:
    """Three digits of them: '0.0125', '1.25', '125'."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mean(values: Iterable[float]) -> float | None:
    found = sorted(values)
    return mean_and_deviation(found)[0] if found else None


# -- soft targets over training ---------------------------------------------------------------------------------------


def _curve(row: Row) -> list[list[str]]:
    """Of the first epoch, a quarter, a half and the last of those that all runs have; none without soft targets."""
    curves = [{point.epoch: point for point in record.targets} for record in row.runs.counted if record.targets]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return []
    last = epochs[-1]
    shown = sorted({min(epochs, key=lambda epoch: abs(epoch - share * last)) for share in (0, 0.25, 0.5, 1)})
    return [_moment(row.label, [curve[epoch] for curve in curves]) for epoch in shown]


def _moment(label: str, points: Sequence[TargetsAt]) -> list[str]:
    steps = [point.generator_steps for point in points if point.generator_steps is not None]
    losses = [point.heldout_loss for point in points if point.heldout_loss is not None]
    known = len(steps) == len(points)
    return [
        text(label),
        str(points[0].epoch + 1),
        f"{mean_and_deviation(steps)[0]:,.0f}" if known else "–",
        _several([point.accuracy for point in points], ".1f"),
        _several([point.entropy for point in points], ".2f"),
        _several([point.confidence for point in points], ".2f"),
        f"{mean_and_deviation(losses)[0]:.4f}" if len(losses) == len(points) else "–",
        _several([point.target_alignment for point in points], "+.3f"),
        _several([point.label_alignment for point in points], "+.3f"),
    ]


def _several(each: Sequence[tuple[float, ...] | None], form: str) -> str:
    """Means over runs, exit by exit; a dash where one has none."""
    found = [values for values in each if values is not None]
    if len(found) < len(each):
        return "–"
    return " / ".join(f"{mean_and_deviation(values)[0]:{form}}" for values in zip(*found, strict=True))


# -- every run --------------------------------------------------------------------------------------------------------


RUN_HEADINGS = (
    "method",
    "seed",
    "exits",
    "final",
    "ensemble",
    "hours",
    "MiB",
    "machine",
    "commit",
    "finished",
    "teacher",
)
TEACHER = RUN_HEADINGS.index("teacher")


def runs(found: Sequence[Setting], own: Sequence[Record]) -> list[str]:
    """A line each, setting by setting.

    Args:
        own: those that are listed here and not among the runs of the paper's recipes.
    """
    listed = {record.id for record in own}
    parts = []
    for setting in found:
        machines = setting.machines
        rows = [
            _run(row.label, record, machines.index(record.hardware) + 1)
            for row in setting.rows
            for record in row.runs.records
            if record.id in listed
        ]
        names = "; ".join(f"{place} is {machine(hardware)}" for place, hardware in enumerate(machines, start=1))
        parts += [f"### {text(heading(setting))}: runs", f"Recipe {text(setting.recipe)}; machine {names}."]
        # Most have no teacher.
        columns = [
            column for column in range(len(RUN_HEADINGS)) if column != TEACHER or any(row[column] for row in rows)
        ]
        kept = [[row[column] for column in columns] for row in (RUN_HEADINGS, *rows)]
        parts.append(table(kept[0], kept[1:], left=1))
    return parts


def _run(label: str, record: Record, place: int) -> list[str]:
    commits = ", ".join(map(short, (record.commit or "unknown").split(", ")))
    return [
        text(label),
        str(record.seed),
        " / ".join(f"{value:.2f}" for value in record.exits),
        f"{record.final:.2f}",
        f"{record.ensemble:.2f}" if record.exits else "",
        hours(record.seconds),
        f"{record.peak_memory_mb:,.0f}",
        str(place),
        text(f"{record.package}, {commits}"),
        record.date,
        f"{record.teacher.final:.2f} in {hours(record.teacher.seconds)} h" if record.teacher else "",
    ]


def short(commit: str) -> str:
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty
