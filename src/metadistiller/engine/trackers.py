"""Trackers of experiments, beside the run folder and never instead of it: TensorBoard, trackio, Weights & Biases.

A tracker is a Watcher, so it cannot change a bit of a run; and one that fails ends nothing. It is told what results.csv
holds, epoch by epoch, with the images a second; the step axis counts epochs done. What a run did before a tracker came
to it is told from results.csv.
"""

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from types import NoneType, TracebackType
from typing import Any, NamedTuple, Protocol

from ..errors import ConfigError, UnknownName
from ..records import RunFolder
from .checkpoint import Progress
from .evaluate import Evaluation
from .step import Job

PROJECT = __name__.partition(".")[0]
_SECONDS_FOR_A_SERVER = 30


class Told(NamedTuple):
    """What a tracker is told first.

    Attributes:
        name: of the run, for people: its folder's.
        key: the same one for every sitting of the run.
        new: whether the run has not been told to this kind of tracker before.
        settings: of the run, flat: "method.alpha" and the like.
    """

    folder: RunFolder
    name: str
    key: str
    new: bool
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """Somewhere that numbers go to. Anything may be raised anywhere."""

    # Whether what was told before is replaced when it is told again.
    replaces: bool

    def begin(self, told: Told) -> None: ...
    def log(self, values: Mapping[str, float], epochs_done: int) -> None: ...
    def finish(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard, a new one for each sitting; each epoch is on the disk when it is over.

    Written here at once rather than by a thread of TensorBoard's, which would tell nobody of a full disk.
    """

    replaces = True

    def begin(self, told: Told) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import hparams

        place = told.folder.path / "tensorboard"
        place.mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names.
        self._file = (place / f"events.out.tfevents.{time.time():017.6f}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # Whatever stands in earlier files from this step on counts no more; all of it is told again.
        self._write(session_log=SessionLog(status=SessionLog.START))
        settings = {key: value for key, value in told.settings.items() if value is not None}
        names = dict.fromkeys(("result/final", "result/ensemble"), 0.0)
        for summary in hparams(settings, names):  # type: ignore[no-untyped-call]  # torch has none here
            self._write(summary=summary)
        self._file.flush()

    def log(self, values: Mapping[str, float], epochs_done: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        each = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(epochs_done, summary=Summary(value=each))
        self._file.flush()

    def finish(self) -> None:
        self._file.close()

    def _write(self, step: int = 0, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), step=step, **what).SerializeToString())


class InitLogFinish:
    """A package with the functions init, log and finish that trackio and wandb have in common.

    Args:
        package: imported when a run begins.
        first: more for `init`, from what is told.
    """

    replaces = False

    def __init__(self, package: str, first: Callable[[Told], Mapping[str, Any]]) -> None:
        self._package = package
        self._first = first

    def begin(self, told: Told) -> None:
        self._module = import_module(self._package)
        self._module.init(project=PROJECT, config=dict(told.settings), resume="allow", **self._first(told))

    def log(self, values: Mapping[str, float], epochs_done: int) -> None:
        self._module.log(dict(values), step=epochs_done)

    def finish(self) -> None:
        self._module.finish()


def _trackio(told: Told) -> dict[str, Any]:
    # It has names and no keys, and takes a run up again by its name.
    return {"name": f"{told.name}-{told.key}", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


def _wandb(told: Told) -> dict[str, Any]:
    # A run must not wait for somebody to type a password, nor have its display taken from it.
    settings = {"login_timeout": _SECONDS_FOR_A_SERVER, "init_timeout": _SECONDS_FOR_A_SERVER, "console": "off"}
    return {"name": told.name, "id": told.key, "dir": str(told.folder), "settings": settings}


class _Kind(NamedTuple):
    make: Callable[[], Tracker]
    package: str
    install: str


_KINDS: Mapping[str, _Kind] = {
    "tensorboard": _Kind(TensorBoard, "tensorboard", "pip install 'metadistiller[track]'"),
    "trackio": _Kind(lambda: InitLogFinish("trackio", _trackio), "trackio", "pip install 'metadistiller[track]'"),
    "wandb": _Kind(lambda: InitLogFinish("wandb", _wandb), "wandb", "pip install wandb"),
}
TRACKERS = tuple(_KINDS)


def check_trackers(names: Sequence[str]) -> None:
    """Raises: UnknownName; ConfigError where a package is not installed."""
    for name in names:
        if name not in _KINDS:
            raise UnknownName("tracker", name, TRACKERS)
        kind = _KINDS[name]
        found = find_spec(kind.package)
        # A folder of that name here, such as wandb itself makes, is a package to Python too: one without an origin.
        if found is None or found.origin is None:
            raise ConfigError(
                f"--track {name} needs the package {kind.package}, which is not installed: {kind.install}"
            )


class Tracking(AbstractContextManager["Tracking"]):
    """The Watcher that tells a tracker. It ends with the sitting, however that ends.

    Args:
        name: one of TRACKERS.
        say: told once why a tracker gets nothing more, should it fail.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._tracker: Tracker | None = _KINDS[name].make()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._tolerant() as tracker:
            tracker.finish()
        self._tracker = None

    def begin(self, job: Job, folder: RunFolder, progress: Progress) -> None:
        with self._tolerant() as tracker:
            key = self._key(folder)
            told = Told(
                folder, folder.path.resolve().name, key or uuid.uuid4().hex[:16], not key, _flat(job.config.as_dict())
            )
            tracker.begin(told)
            if told.new:
                folder.append_event("tracker", name=self._name, key=told.key)
            if told.new or tracker.replaces:
                for epochs_done, values in _told_before(folder):
                    tracker.log(values, epochs_done)

    def step(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Nothing: epochs are told."""

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        with self._tolerant() as tracker:
            tracker.log(_numbers(row) | {"images_per_second": images_per_second}, row["epoch"] + 1)

    def note(self, text: str) -> None:
        """Nothing: the log has it."""

    def end(self, result: Mapping[str, Any], evaluation: Evaluation) -> None:
        outputs = {f"exit_{k}": percent for k, percent in enumerate(result["exits"], 1)}
        named = outputs | {key: result[key] for key in ("final", "ensemble", "seconds", "peak_memory_mb")}
        with self._tolerant() as tracker:
            tracker.log({f"result/{key}": float(value) for key, value in named.items()}, result["epochs"])

    def _key(self, folder: RunFolder) -> str | None:
        known = [each for each in folder.read_events() if each["event"] == "tracker" and each.get("name") == self._name]
        return str(known[-1]["key"]) if known else None

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[Tracker]:
        """The tracker for the block; where it has failed before, one that does nothing."""
        tracker = self._tracker or _Nobody()
        try:
            # Standard output is the command's own: with --quiet it holds the run's folder and nothing else.
            with contextlib.redirect_stdout(sys.stderr):
                yield tracker
        # Nothing narrower: whatever becomes of a tracker, the run is worth more.
        except Exception as error:
            self._tracker = None
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                tracker.finish()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(f"{self._name} gets nothing more, training goes on: {reason}")


class _Nobody:
    replaces = False

    def begin(self, told: Told) -> None: ...
    def log(self, values: Mapping[str, float], epochs_done: int) -> None: ...
    def finish(self) -> None: ...


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a row of results.csv; those that are empty in it are left out."""
    return {name: float(value) for name, value in row.items() if name != "epoch" and value not in ("", None)}


def _told_before(folder: RunFolder) -> Iterator[tuple[int, dict[str, float]]]:
    """Epochs done and what was seen, of all that the run has kept; it has forgotten those that it will do again."""
    events = (event for event in folder.read_events() if event["event"] == "epoch")
    rates = {event["epoch"]: {"images_per_second": float(event["images_per_second"])} for event in events}
    for row in folder.read_rows():
        epoch = int(row["epoch"])
        yield epoch + 1, _numbers(row) | rates.get(epoch, {})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; what is no number and no word, as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (int, float, str, NoneType)) else str(value)
    return flat
