"""A finished run entered in the ledger of a folder, and the folder's page made anew from it."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from . import ledger, report
from .building import with_members, written_out
from .config import Config
from .errors import CheckpointError, LedgerError, PageError, UsageError
from .recipes import recipe
from .records import RunFolder


def enter(run: RunFolder, evidence: Path, *, started_from: str, command: str) -> None:
    """Put a finished run into the ledger, once, and write the page; older runs are told as `renew` does.

    Args:
        evidence: the folder of ledger.json; made where it is not there.
        started_from: the name of the recipe that it is a run of.
        command: one that makes the run.
    Raises: LedgerError where the ledger cannot be read or has the run with another outcome, of which PageError where
        the run is entered and the page could not be written; CheckpointError where the run is damaged; OSError.
    """
    settings = run.read_config()
    try:
        config, own = _compared_with(started_from, *_members(settings).items())
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{run.config} does not name what the run was made of ({error}); it was edited") from None
    record = ledger.record_of(run, started_from, config, own=own, command=command)
    renew(evidence)
    ledger.append(evidence / "ledger.json", record)
    try:
        report.write_evidence(evidence)
    except (LedgerError, OSError) as error:
        raise PageError(
            f"entered, but the page was not written: {error}; 'metadistiller report {evidence}' writes it"
        ) from error


def left_out(error: Exception) -> str:
    """What became of a run, in words, where entering it raised this."""
    return str(error) if isinstance(error, PageError) else f"not entered: {error}"


def renew(evidence: Path) -> list[str]:
    """Say of every run in the ledger what differs from its recipe as it is now, from the run's own settings.

    Recipes and defaults change from version to version. A run that was entered before would be taken for one of today's
    recipe, and averaged with others that are.

    Args:
        evidence: the folder of ledger.json, which need not be there.
    Returns: in words, the runs of which the ledger goes on saying what was true when they were entered, and why.
    Raises: LedgerError where the ledger cannot be read, or would have a run twice.
    """
    path = evidence / "ledger.json"
    left: list[str] = []
    compared_with = cache(_compared_with)

    def now(record: ledger.Record) -> ledger.Record:
        why = "it was entered before a run's settings were"
        if record.settings is not None:
            try:
                config, own = compared_with(record.recipe, *_members(record.settings).items())
                return ledger.relative_to(record, config, own=own)
            except (UsageError, LedgerError) as error:
                why = str(error)
        left.append(f"{record.recipe} {record.method}, seed {record.seed}, {record.date}: {why}")
        return record

    if path.exists():
        ledger.rewrite(path, now)
    return left


def _compared_with(name: str, *members: tuple[str, str | None]) -> tuple[Config, Config]:
    """A recipe, and the same with these members, by family; both written out. Raises: UnknownName, ConfigError."""
    config = recipe(name)
    return written_out(config), written_out(with_members(config, dict(members)))


def _members(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """By family, the names in a config.yaml. Raises: KeyError, TypeError."""
    names = {family: settings[family]["name"] for family in ("data", "model", "method")}
    teacher = settings["teacher"]
    return {**names, "teacher": teacher and teacher["name"]}
