"""The ledger: one file with every finished run that counts as evidence, what it was and what came out.

{"format": 4, "runs": [...]}, one record a run; docs/run-folder.md has every key. A record holds nothing of the machine
that is not a fact about the run: no path, no user. Entering is safe for several processes at once.

_record.py      a record, its id, and the check that it can be one
_file.py        read, append, rewrite, and their lock
_run.py         from a finished run folder to a record
_targets.py     the soft targets of a run over training
"""

from ._file import append, locked, read, rewrite
from ._record import Hardware, Images, Record, TargetsAt, TeacherRun, identity, is_same_everywhere
from ._run import of_training, record_of, relative_to

__all__ = [
    "Hardware",
    "Images",
    "Record",
    "TargetsAt",
    "TeacherRun",
    "append",
    "identity",
    "is_same_everywhere",
    "locked",
    "of_training",
    "read",
    "record_of",
    "relative_to",
    "rewrite",
]
