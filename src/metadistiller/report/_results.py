"""One setting of the ledger as a short table for the README: what its runs say, and the command."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from metadistiller.errors import LedgerError
from metadistiller.ledger import Record

from ._compared import Row, Setting, chosen, named
from ._comparisons import mean
from ._cost import machine
from ._groups import difference
from ._markdown import code, table, text
from ._tables import duration, spread

BASELINES = ("plain", "dsn")
MOST_COMMANDS = 2  # more are not read


def results(records: Sequence[Record], *, recipe: str, epochs: int, overrides: Mapping[str, Any]) -> str:
    """Raises: LedgerError where there is no run of it."""
    setting = chosen(records, recipe=recipe, epochs=epochs, overrides=overrides)
    if setting is None:
        raise LedgerError(f"the ledger has no comparison of {recipe}, {epochs} epochs, with {dict(overrides)}")
    means = [mean(record.seconds for record in setting.weighable(row.runs)) for row in setting.rows]
    unit = "seconds" if max(filter(None, means), default=0.0) < 3600 else "time"
    deltas = [f"delta to {label} (95 % CI)" for label in BASELINES]
    rows = [
        [*_row(setting, row), "–" if seconds is None else f"{seconds:.0f}" if unit == "seconds" else duration(seconds)]
        for row, seconds in zip(setting.rows, means, strict=True)
    ]
    return "\n\n".join([table(("method", "n", "final %", "ensemble %", *deltas, unit), rows, left=1), _made(setting)])


def _row(setting: Setting, row: Row) -> list[str]:
    return [
        text(row.label),
        str(len(row.runs.counted)),
        spread(row.runs.values("final")),
        spread(row.runs.values("ensemble")),
        *(_delta(setting, row, baseline) for baseline in BASELINES),
    ]


def _delta(setting: Setting, row: Row, baseline: str) -> str:
    theirs = setting.baseline(baseline, row)
    found = difference(row.runs, theirs.runs, "final") if theirs else None
    if theirs is None or found is None:
        return "–"
    value, count = found
    short = count < len(row.runs.counted) and value.interval is not None
    return value.told(*([f"{count} pairs"] if short else [])) + text(named(theirs, row, baseline))


def _made(setting: Setting) -> str:
    """Where and when, and by which command, in lines of a page."""
    dates = sorted(record.date[:10] for record in setting.records)
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    # As _comparisons has it: times are of the first.
    where = "; ".join(machine(hardware) for hardware in setting.machines)
    commands = [code(command, limit=2000) for command in setting.commands]
    told = " and ".join(commands)
    if len(commands) > MOST_COMMANDS:
        told = f"{commands[0]}, and {len(commands) - 1} others like it in the ledger"
    words = f"{where}; {when}. Command: {told}" if commands else f"{where}; {when}."
    return "\n".join(textwrap.wrap(words, 120, break_long_words=False, break_on_hyphens=False))
