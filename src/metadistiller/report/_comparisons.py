"""The evidence page's comparisons: methods in settings that the paper's tables do not have, and what their soft targets
were over training."""

from collections.abc import Iterable, Sequence

from metadistiller.ledger import Record, TargetsAt
from metadistiller.paired import mean_and_deviation

from ._compared import Row, Setting, named
from ._cost import machine
from ._groups import gain
from ._markdown import code, table, text
from ._tables import duration, spread

INTRO = """\
Methods compared in runs that were not started from the tables' own recipes, or that are on other data, of another
network or of another method than those; beside them the tables' own runs, where those were trained in the same way.
No number of the paper stands here. A row is METHOD:OPTION=VALUE, with the options that are not the method's own
defaults, and what else was set for this row and not for all; n is the number of seeds, exits are means, shallow
first, and final and ensemble have their sample standard deviation. − is the difference of the final output,
percentage points, paired by seed, with its 95 % interval and the number of pairs; to the row of that method that
learned from the same (label smoothing, augmentation and the like), or to the one that is named, or else to the one
without options. These are many intervals at once: of twenty, one misses 0 by chance where there is no difference at
all. Time, memory and cost (×, against plain training) are means over the runs on the machine that is named first. A
command is one that makes the runs."""

HEADINGS = (
    *("method", "n", "exits", "final", "ensemble", "− plain", "− dsn", "− self_distillation"),
    *("time", "×", "MiB"),
)
BASELINES = ("plain", "dsn", "self_distillation")
MOST_COMMANDS = 4

CURVE = """\
Soft targets over training, on training images, means over the n seeds of which they are known; T_1 first. The held-out
loss and what it says of targets (gain and alignment, docs/run-folder.md) are of the latest epoch in which the generator
learned by it."""

CURVE_HEADINGS = (
    *("method", "n", "epochs", "generator steps", "accuracy, %", "entropy, nats", "confidence"),
    *("held-out loss, nats", "target gain, nats", "label gain", "target alignment", "label alignment"),
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
        f"### {text(setting.heading)}",
        f"{_recipes(setting)}; {where}.",
        table(HEADINGS, rows, left=1),
        *([CURVE, table(CURVE_HEADINGS, curve, left=1)] if curve else []),
        *_commands(setting.commands),
    ]


def _recipes(setting: Setting) -> str:
    return f"Recipe{'s' if len(setting.recipes) > 1 else ''} {', '.join(map(text, setting.recipes))}"


def _commands(commands: Sequence[str]) -> list[str]:
    """Runs that were not entered by one command have one each, which are too many to read."""
    shown = commands if len(commands) <= MOST_COMMANDS else commands[:1]
    more = len(commands) - len(shown)
    said = [f"Command: {code(command, limit=2000)}" for command in shown]
    return [*said, f"And {more} others like it, in the ledger."] if more else said


def _row(setting: Setting, row: Row) -> list[str]:
    plain = row if row.label == "plain" else setting.baseline("plain", row)
    here, beside = setting.weighable(row.runs), setting.weighable(plain.runs) if plain else []
    seconds = mean(record.seconds for record in here)
    theirs = mean(record.seconds for record in beside)
    memory = mean(record.peak_memory_mb for record in here)
    counted = row.runs.counted
    exits = zip(*(record.exits for record in counted), strict=True)
    return [
        text(row.label),
        str(len(counted)),
        " / ".join(f"{mean_and_deviation(values)[0]:.2f}" for values in exits),
        spread(row.runs.values("final")),
        spread(row.runs.values("ensemble")) if row.runs.has("ensemble") else "",
        *(_gain(setting, row, other) for other in BASELINES),
        "" if seconds is None else duration(seconds),
        f"{seconds / theirs:.2f}" if seconds is not None and theirs else "",
        "" if memory is None else f"{memory:,.0f}",
    ]


def _gain(setting: Setting, row: Row, method: str) -> str:
    other = setting.baseline(method, row)
    told = gain(row.runs, other.runs, "final", marked=False) if other else ""
    return told + text(named(other, row, method)) if other and told else ""


def mean(values: Iterable[float]) -> float | None:
    """The same in whatever order they come; None of none."""
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
    """Of one epoch; n says over how many seeds, since some may have been entered before soft targets were."""
    steps = [point.generator_steps for point in points if point.generator_steps is not None]
    losses = [point.heldout_loss for point in points if point.heldout_loss is not None]
    known = len(steps) == len(points)
    return [
        text(label),
        str(len(points)),
        str(points[0].epoch + 1),
        f"{mean_and_deviation(steps)[0]:,.0f}" if known else "–",
        _several([point.accuracy for point in points], ".1f"),
        _several([point.entropy for point in points], ".2f"),
        _several([point.confidence for point in points], ".2f"),
        f"{mean_and_deviation(losses)[0]:.4f}" if len(losses) == len(points) else "–",
        _several([point.target_gain for point in points], "+.4f"),
        _several([point.label_gain for point in points], "+.4f"),
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
    "time",
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
        parts += [f"### {text(setting.heading)}: runs", f"{_recipes(setting)}; machine {names}."]
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
        duration(record.seconds),
        f"{record.peak_memory_mb:,.0f}",
        str(place),
        text(f"{record.package}, {commits}"),
        record.date,
        f"{record.teacher.final:.2f} in {duration(record.teacher.seconds)}" if record.teacher else "",
    ]


def short(commit: str) -> str:
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty
