"""A run in a process of its own, so that its time and memory are its own."""

import shlex
import subprocess
import sys

import yaml

from .budget import Budget
from .config import Config
from .errors import ConfigError, Paused, RunError
from .records import RunFolder, write_text

NO_LIMIT = Budget(None)


def check_same(folder: RunFolder, config: Config) -> None:
    """Raises: ConfigError where the folder holds a run of other settings."""
    if not folder.config.exists():
        return
    there, wanted = folder.read_config(), config.as_dict()
    for key in {**there, **wanted}:
        if there.get(key) != wanted.get(key):
            raise ConfigError(
                f"{folder} was begun with {key}={there.get(key)!r}, now {wanted.get(key)!r} is asked for; "
                "use another --out, or the same settings"
            )


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
