"""A finished run entered in the ledger of a folder, and the folder's page made anew from it."""

from pathlib import Path

from . import ledger, report
from .building import with_members, written_out
from .errors import CheckpointError, LedgerError, PageError
from .recipes import recipe
from .records import RunFolder


def enter(run: RunFolder, evidence: Path, *, started_from: str, command: str) -> None:
    """Put a finished run into the ledger, once, and write the page.

    Args:
        evidence: the folder of ledger.json; made where it is not there.
        started_from: the name of the recipe that it is a run of.
        command: one that makes the run.
    Raises: LedgerError where the ledger cannot be read or has the run with another outcome, of which PageError where
        the run is entered and the page could not be written; CheckpointError where the run is damaged; OSError.
    """
    config = recipe(started_from)
    own = with_members(config, _members(run))
    record = ledger.record_of(run, started_from, written_out(config), own=written_out(own), command=command)
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


def _members(run: RunFolder) -> dict[str, str | None]:
    """By family, the names in its config.yaml. Raises: CheckpointError."""
    settings = run.read_config()
    try:
        names = {family: settings[family]["name"] for family in ("data", "model", "method")}
        teacher = settings["teacher"]
        return {**names, "teacher": teacher and teacher["name"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{run.config} does not name what the run was made of ({error}); it was edited") from None
