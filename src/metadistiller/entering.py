"""A finished run entered in the ledger of a folder, and the folder's page made anew from it."""

from pathlib import Path

from . import ledger, report
from .building import written_out
from .recipes import recipe
from .records import RunFolder


def enter(run: RunFolder, evidence: Path, *, started_from: str, command: str) -> None:
    """Put a finished run into the ledger, once, and write the page.

    Args:
        evidence: the folder of ledger.json; made where it is not there.
        started_from: the name of the recipe that it is a run of.
        command: that began it.
    Raises: LedgerError where the ledger cannot be read or has the run with another outcome; CheckpointError where the
        run is damaged.
    """
    record = ledger.record_of(run, started_from, written_out(recipe(started_from)), command=command)
    ledger.append(evidence / "ledger.json", record)
    report.write_evidence(evidence)
