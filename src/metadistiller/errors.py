"""Everything this package raises on purpose.

    MetaDistillerError
    ├── Paused                     exit code 3: stopped on purpose, saved, to be resumed
    ├── UsageError (ValueError)    exit code 2: what was asked for cannot be meant
    │   ├── UnknownName            a method, network, data set, recipe or option that is not there
    │   ├── ConfigError            a value out of its range, or two that contradict each other
    │   ├── ShapeError             tensors or images that do not fit together
    │   └── StageError             a network whose stages, or whose head, cannot be found
    └── RunError (RuntimeError)    exit code 1: it was a fair request, and it failed
        ├── DataError              files that are missing, damaged or inconsistent
        ├── CheckpointError        a run folder or checkpoint that cannot be used
        ├── LedgerError            a ledger of runs that cannot be read, or a run that it does not take
        │   └── PageError          a run that it has taken, and a page of it that could not be written
        ├── TrainingError          a loss that is no longer finite
        ├── ExportError            an exported network that does not answer as the trained one
        └── PushError              a hub that cannot be reached, or does not take a network

Each message says what is wrong, the value that was seen, and what to do about it.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MetaDistillerError(Exception):
    """The root of the tree."""

    exit_code = 1


class Paused(MetaDistillerError):
    """A run that was asked to stop, or has used its budget of time; its checkpoint is saved."""

    exit_code = 3


class UsageError(MetaDistillerError, ValueError):
    """The request itself is wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not among the known ones; the nearest of them is offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        super().__init__(f"unknown {kind} {name!r}; {self.hint()}")

    def hint(self) -> str:
        near = get_close_matches(self.name, self.known, n=1, cutoff=0.5)
        listed = f"known: {', '.join(self.known) or 'none'}"
        if not near:
            return listed
        # A long list would hide the answer.
        return f"did you mean {near[0]!r}?" + (f" ({listed})" if len(self.known) <= 12 else "")


class ConfigError(UsageError):
    """A setting out of its range, or settings that contradict each other."""


class ShapeError(UsageError):
    """Tensors or images whose sizes do not fit."""


class StageError(UsageError):
    """A network that is no image classifier of two stages or more, as far as a run of it shows."""


class RunError(MetaDistillerError, RuntimeError):
    """A fair request that failed on the way."""


class DataError(RunError):
    """Data that is missing, damaged or inconsistent."""


class CheckpointError(RunError):
    """A run folder or checkpoint that cannot be used."""


class LedgerError(RunError):
    """A ledger of runs that cannot be read or written, or a run that cannot be entered."""


class PageError(LedgerError):
    """A run that is entered in a ledger whose page could not be written."""


class TrainingError(RunError):
    """Training that cannot go on."""


class ExportError(RunError):
    """An export that does not tell the truth about the trained network."""


class PushError(RunError):
    """A hub that cannot be reached, or that does not take what it is given."""
