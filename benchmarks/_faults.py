"""A save of a checkpoint in which one call to the disk fails, or at which the process is killed.

The calls are those that change the disk or ask about it (write, sync, rename, ...), in their order, whoever makes them;
a save without a fault says how many there are.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from metadistiller.engine.checkpoint import (
    Checkpoint,
    Progress,
    list_checkpoints,
    load_checkpoint,
    newest_valid,
    save_checkpoint,
)
from metadistiller.errors import CheckpointError

_CALLS = ("fsync", "listdir", "mkdir", "open", "rename", "replace", "rmdir", "scandir", "statvfs", "unlink")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
IDENTITY = {"method": "dsn", "network": "resnet10", "data": "digits"}


class Killed(BaseException):
    """The process ends here: nobody catches it, and no later call does anything."""


@dataclass
class Faults(contextlib.AbstractContextManager["Faults"]):
    """Within the block the calls are counted, and one of them fails.

    Attributes:
        at: number of the first call that fails, from 0; None for none.
        error: with which errno; None for a kill.
        lasting: whether all later ones fail too, as on a disk that is gone.
        calls: names of the calls so far.
    """

    at: int | None = None
    error: int | None = None
    lasting: bool = False
    calls: list[str] = field(default_factory=list)
    _patches: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Faults":
        for name in _CALLS:
            self._patches.enter_context(patch.object(os, name, self._failing(name, getattr(os, name))))
        opened = Path.open

        def open_path(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode.startswith("r"):
                return opened(path, mode, *args, **options)
            self.call("open file")
            return _File(opened(path, mode, *args, **options), self.call)

        self._patches.enter_context(patch.object(Path, "open", open_path))
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def call(self, name: str) -> None:
        number = len(self.calls)
        self.calls.append(name)
        if self.at is None or number < self.at:
            return
        if self.error is None:
            raise Killed
        if number == self.at or self.lasting:
            raise OSError(self.error, os.strerror(self.error))

    def _failing(self, name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **options: Any) -> Any:
            self.call(name)
            return whole(*args, **options)

        return failing


class _File:
    """A file of which half is written where a write fails."""

    def __init__(self, file: Any, call: Callable[[str], None]) -> None:
        self._file, self._call = file, call

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        try:
            self._call("write")
        except BaseException:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        return int(self._file.write(data))

    def flush(self) -> None:
        self._call("flush")
        self._file.flush()

    def fileno(self) -> int:
        return int(self._file.fileno())


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """A sync takes no time: no power is cut here, and what counts is that it is asked for, and may fail."""
    with patch.object(os, "fsync", lambda descriptor: None):
        yield


# -- a save in a folder where something is already ---------------------------------------------------------------------


def example(epoch: int, step: int = 0, *, mark: float = 0.0) -> Checkpoint:
    """A checkpoint whose contents `mark` tells apart."""
    return Checkpoint(
        Progress(epoch, step, mark, {"loss": (0.1 + 0.2, 3)}, IDENTITY),
        {"weight": torch.full((3, 2), mark)},
        {"student/weight/momentum_buffer": torch.full((3, 2), mark + 1)},
    )


def same(a: Checkpoint | None, b: Checkpoint | None) -> bool:
    """To the last bit."""
    if a is None or b is None:
        return a is b
    return a.progress == b.progress and all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
        for x, y in ((a.method, b.method), (a.optimizers, b.optimizers))
    )


BEFORE, NEW, NEXT = example(1, mark=1.0), example(2, mark=2.0), example(3, mark=3.0)
BEFORE_THERE = example(2, mark=1.0)  # of the same place in training as NEW


def _nothing(folder: Path) -> None:
    """The folder is not there either."""


def _one(folder: Path) -> Checkpoint:
    save_checkpoint(folder, BEFORE, keep=1)
    return BEFORE


def _of_the_same_place(folder: Path) -> Checkpoint:
    save_checkpoint(folder, BEFORE_THERE, keep=1)
    return BEFORE_THERE


def _with_left_overs(folder: Path) -> Checkpoint:
    for name in (".e0002-s000000.partial", ".e0007-s000003.partial"):
        (folder / name).mkdir(parents=True)
        (folder / name / "state.json").write_text("{")
    return _one(folder)


def _after_a_fall_back(folder: Path) -> Checkpoint:
    for epoch in (1, 2, 9):
        save_checkpoint(folder, example(epoch, mark=1.0), keep=3)
    for name in ("e0002-s000000", "e0009-s000000"):
        (folder / name / "state.json").write_text("{")
    return BEFORE


SCENES: dict[str, Callable[[Path], Checkpoint | None]] = {
    "nothing is there": _nothing,
    "one is there": _one,
    "one of the same place is there": _of_the_same_place,
    "left-overs are there": _with_left_overs,
    "later ones are damaged": _after_a_fall_back,
}


def num_calls(folder: Path, scene: str) -> int:
    """Calls of a save without a fault."""
    with unsynced():
        SCENES[scene](folder)
        with Faults() as counted:
            save_checkpoint(folder, NEW, keep=1)
    shutil.rmtree(folder)
    return len(counted.calls)


def points(folder: Path, scene: str) -> Iterator[tuple[int, int | None, bool]]:
    """Every call, with every error for that call and from then on, and with a kill: the arguments of `objection`."""
    for at in range(num_calls(folder, scene)):
        yield from ((at, error, lasting) for error in ERRORS for lasting in (False, True))
        yield at, None, True


def objection(folder: Path, scene: str, at: int, error: int | None, lasting: bool) -> str | None:
    """What was lost by a save in which that call failed; None where nothing was and the next save works.

    Args:
        folder: not there yet; removed afterwards.
    """
    with unsynced():
        try:
            return _objection(folder, scene, at, error, lasting)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _objection(folder: Path, scene: str, at: int, error: int | None, lasting: bool) -> str | None:
    before = SCENES[scene](folder)
    there = [path for path in list_checkpoints(folder) if before and _loads(path, before)]
    outcome = "saved"
    try:
        with Faults(at, error, lasting):
            save_checkpoint(folder, NEW, keep=1)
    except CheckpointError:
        outcome = "refused"
    except Killed:
        outcome = "killed"
    except Exception as unexpected:
        return f"{type(unexpected).__name__}: {unexpected}"
    try:
        # Where nothing was there before, nothing may be there now.
        found, _ = newest_valid(folder, IDENTITY)
        allowed = [NEW] if outcome == "saved" else [NEW, before]
        if not any(same(found, wanted) for wanted in allowed):
            return f"{outcome}, and the newest valid one is {found and found.progress}"
        if outcome == "refused" and before is not None and not all(_loads(path, before) for path in there):
            return "refused, and the one before is gone"
        save_checkpoint(folder, NEXT, keep=1)
        if not same(newest_valid(folder, IDENTITY)[0], NEXT) or len(list(folder.iterdir())) != 1:
            return f"after the next save there are {sorted(path.name for path in folder.iterdir())}"
    except CheckpointError as lost:
        return f"{outcome}, then {lost}"
    return None


def _loads(path: Path, wanted: Checkpoint) -> bool:
    try:
        return same(load_checkpoint(path), wanted)
    except CheckpointError:
        return False
