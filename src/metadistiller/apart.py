"""A run in a process of its own, so that its time and memory are its own."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import yaml

from .budget import Budget, no_limit
from .config import MACHINE, Config
from .errors import ConfigError, Paused, RunError
from .records import RunFolder, write_text
from .signals import WITH_PARENT

NO_LIMIT = Budget(None)
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_SAVE = 60.0


def check_same(folder: RunFolder, config: Config) -> None:
    """Raises: ConfigError where the folder holds a run of other settings, the machine's apart."""
    if not folder.config.exists():
        return
    for key, before, now in folder.differences(config.as_dict()):
        if key not in MACHINE:
            raise ConfigError(
                f"{folder} was begun with {key}={before!r}, now {now!r} is asked for; "
                "use another --out, or the same settings"
            )


def train_apart(
    folder: RunFolder, config: Config, *, budget: Budget = NO_LIMIT, interrupted: Callable[[], bool] = no_limit
) -> None:
    """Train into a folder, or go on there, to the end. Where this process is killed, the other one saves and stops.

    Where somebody trains there, it may be what a command that was killed has left, and it gets a minute to save.

    Args:
        config: resolved, as the run is to have it; read only where the folder is new.
        budget: what is left of it is the run's.
        interrupted: asked all the time whether the run is to save and stop.
    Raises: Paused where the budget ended first, or `interrupted` said so; RunError with the last line of
            what the process said.
    """
    words = [sys.executable, "-m", "metadistiller"]
    if folder.config.exists():
        _wait_until_free(folder, interrupted)
        words += ["resume", str(folder), "--quiet"]
    else:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        settings = folder.path.with_suffix(".yaml")
        write_text(settings, yaml.safe_dump(config.as_dict(), sort_keys=False))
        words += ["train", "--config", str(settings), "--out", str(folder), "--quiet"]
    if budget.left is not None:
        # The process asks its own clock between steps; a limit of nothing would not even be a time.
        words += ["--budget", f"{max(budget.left, 0.1):.1f}s"]
    # What is asked of this process is handed on as SIGTERM, for a terminal's Ctrl-C has reached that one already.
    with (
        _held() as held,
        subprocess.Popen(
            words,
            stdin=held,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, WITH_PARENT: "1"},
        ) as process,
    ):
        try:
            said = _wait(process, interrupted)
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return
    last = (said.strip().splitlines() or ["no message"])[-1]
    if interrupted():
        raise Paused(f"stopped in time, while {folder} was being trained; the same command goes on from there")
    if process.returncode == Paused.exit_code:
        raise Paused(last)
    raise RunError(f"{shlex.join(words[2:])} ended with {process.returncode}: {last}")


def _wait_until_free(folder: RunFolder, interrupted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while folder.is_trained() and time.monotonic() < deadline and not interrupted():
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _held() -> Iterator[int]:
    """The end of a pipe to read from. No other process has the other end, so that closes when this one is killed."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _wait(process: "subprocess.Popen[str]", interrupted: Callable[[], bool]) -> str:
    """Until it ends, asking it to save and stop as soon as this process was asked to. Returns: what it said."""
    handed_on = False
    while True:
        try:
            return process.communicate(timeout=SECONDS_BETWEEN_LOOKS)[1]
        except subprocess.TimeoutExpired:
            if not handed_on and interrupted():
                process.terminate()
                handed_on = True
