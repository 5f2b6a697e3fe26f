"""The ledger's file: read whole, checked, and replaced whole under a lock."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, LedgerError
from ..records import read_json, write_text
from ._record import FORMAT, Images, Record, is_same_everywhere, parse

WAIT_SECONDS = 30.0  # for another process that is entering a run


def read(path: str | Path) -> list[Record]:
    """Every record in the order of entry; none where there is no file yet. Those of an older format have None for
    what came later.

    Raises: LedgerError where it is damaged, or of a format that this version does not know.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise LedgerError(f"{error}; bring back an earlier version of it") from None
    if not isinstance(values, dict) or "format" not in values:
        raise LedgerError(f"{path} is no ledger: it has no format; give the path of a ledger.json")
    if values["format"] not in range(1, FORMAT + 1):
        raise LedgerError(
            f"{path} has format {values['format']!r}, this version reads 1 to {FORMAT}; install the version that wrote "
            "it"
        )
    if set(values) != {"format", "runs"} or not isinstance(values["runs"], list):
        raise LedgerError(f"{path} holds {sorted(values)}, not format and a list of runs; it was damaged or edited")
    records: dict[str, Record] = {}
    for place, run in enumerate(values["runs"]):
        record = parse(run, f"{path}, run {place}", format=values["format"])
        if record.id in records:
            raise LedgerError(f"{path}, run {place} is there already, by its id {record.id}; take one of them out")
        records[record.id] = record
    return list(records.values())


def append(path: str | Path, record: Record) -> bool:
    """Enter a run; several processes may do so at once.

    Returns: False where the same run is there already with the same outcome, and nothing is written.
    Raises: LedgerError where it is there with another outcome, where a run with the same data settings had other
        images, where the file cannot be read, or where somebody else holds it for half a minute; it is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # What cannot be read again is not written.
    parse(json.loads(json.dumps(record.as_dict())), f"the record of {record.recipe}")
    with locked(path):
        records = read(path)
        for there in records:
            if there.is_of_the_run_of(record):
                return False
            if _differ_in_images(there, record):
                raise LedgerError(
                    f"{path} has runs on {_told(there)}, and this one is on {_told(record)}, of the same name and "
                    "settings: nobody could tell them apart; give the data another name (of a hub's, say which "
                    "--data.revision), or keep this run in a ledger of its own, --evidence OTHER"
                )
            if there.id != record.id:
                continue
            if there.outcome == record.outcome:
                return False
            raise LedgerError(
                f"{path} already has {record.recipe} with seed {record.seed} over {record.epochs} epochs on the same "
                f"hardware, finished {there.date} with final {there.final}, ensemble {there.ensemble}; this run ended "
                f"with {record.final} and {record.ensemble}. Find out why, and take the wrong one out by hand; or "
                "keep this one in a ledger of its own, --evidence OTHER"
            )
        write_text(path, _text((*records, record)))
    return True


def rewrite(path: str | Path, change: Callable[[Record], Record]) -> None:
    """Put another record in the place of each, all or none; the file is touched only where one is another.

    Args:
        change: from a record to what stands there instead, which may be itself.
    Raises: LedgerError as `append`, and where two records would be one by their ids.
    """
    path = Path(path)
    with locked(path):
        records = read(path)
        changed = [change(record) for record in records]
        if changed == records:
            return
        found: dict[str, Record] = {}
        for record in changed:
            if record.id in found:
                raise LedgerError(
                    f"{path} would have two runs of {record.recipe} with seed {record.seed} over {record.epochs} "
                    f"epochs and the same settings, finished {found[record.id].date} and {record.date}; take one of "
                    "them out"
                )
            found[record.id] = record
        write_text(path, _text(changed))


def _differ_in_images(one: Record, other: Record) -> bool:
    """Whether two runs that would be averaged or compared saw different images, as far as both say what they saw.

    Of a public data set the number of images alone is asked: copies of it may have them in another order, or by other
    names.
    """
    if one.images is None or other.images is None or one.data_settings != other.data_settings:
        return False
    if is_same_everywhere(one.data):
        return _counts(one.images) != _counts(other.images)
    return one.images != other.images


def _counts(images: Images) -> tuple[int, int, int]:
    return images.train, images.test, images.classes


def _told(record: Record) -> str:
    images = record.images
    assert images is not None
    return f"{record.data} with {images.train:,} training and {images.test:,} test images of {images.classes:,} classes"


def _text(records: Sequence[Record]) -> str:
    """JSON with a line for each run; a run more is a line more, and a comma behind the one before."""
    lines = ",\n".join(f"  {json.dumps(record.as_dict(), allow_nan=False)}" for record in records)
    return f'{{\n "format": {FORMAT},\n "runs": [\n{lines}\n ]\n}}\n'


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Nobody else enters a run meanwhile: for whoever writes something that must agree with the ledger.

    `append` takes the lock itself: within the block it would wait for its own process, in vain, as would a second
    `locked`. `read` takes none. The operating system lets go of the lock when the process ends, however it ends.

    Args:
        path: of the ledger; its folder is there.
    Raises: LedgerError where somebody else holds it for half a minute.
    """
    path = Path(path)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LedgerError(
                        f"{path} has been held by another process for {WAIT_SECONDS:g} s; find it and let it end, "
                        "then do this again"
                    ) from None
                time.sleep(0.02)
        yield
