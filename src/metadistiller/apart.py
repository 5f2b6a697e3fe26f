"""A run in a process of its own, so that its time and memory are its own."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .budget import Budget
from .config import Config
from .errors import ConfigError, Paused, RunError
from .records import RunFolder, write_text

NO_LIMIT = Budget(None)


# Where a run happened. It goes on with its own, wherever it is resumed from.
MACHINE = ("device", "precision", "memory_format", "threads")


def check_same(folder: RunFolder, config: Config) -> None:
    """Raises: ConfigError where the folder holds a run of other settings, the machine's apart.

    A setting that the run does not have is one that there was not when it began.
    """
    if not folder.config.exists():
        return
    there, wanted = folder.read_config(), config.as_dict()
    for key, before, now in _differences(there, wanted):
        if key not in MACHINE:
            raise ConfigError(
                f"{folder} was begun with {key}={before!r}, now {now!r} is asked for; "
                "use another --out, or the same settings"
            )


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value there and value wanted of every setting that both have and that is not the same."""
    for key in there.keys() & wanted.keys():
        before, now = there[key], wanted[key]
        if isinstance(before, dict) and isinstance(now, dict) and before.get("name") == now.get("name"):
            yield from ((f"{key}.{inner}", *values) for inner, *values in _differences(before, now))
        elif before != now:
            yield key, before, now


def train_apart(folder: RunFolder, config: Config, *, budget: Budget = NO_LIMIT) -> None:
    """Train into a folder, or go on there, to the end.

    Args:
        config: resolved, as the run is to have it; read only where the folder is new.
        budget: what is left of it is the run's.
    Raises: Paused where the budget ended first; RunError with the last line of what the process said.
    """
    words = [sys.executable, "-m", "metadistiller"]
    if folder.config.exists():
        words += ["resume", str(folder), "--quiet"]
    else:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        settings = folder.path.with_suffix(".yaml")
        write_text(settings, yaml.safe_dump(config.as_dict(), sort_keys=False))
        words += ["train", "--config", str(settings), "--out", str(folder), "--quiet"]
    if budget.left is not None:
        # The process asks its own clock between steps; a limit of nothing would not even be a time.
        words += ["--budget", f"{max(budget.left, 0.1):.1f}s"]
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines()
    last = said[-1] if said else "no message"
    if done.returncode == Paused.exit_code:
        raise Paused(last)
    raise RunError(f"{shlex.join(words[2:])} ended with {done.returncode}: {last}")
