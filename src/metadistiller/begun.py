"""Which folder a run goes to: a new one, or the one in which it was begun."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from .config import MACHINE, Config
from .errors import CheckpointError, ConfigError
from .records import RunFolder


def default_folder(config: Config, parent: str | Path = "runs", *, taking_up: bool = False) -> Path:
    """The first free runs/DATA-NETWORK-METHOD-sSEED[-N]; what no file system and no shell minds, _ for the rest.

    Args:
        taking_up: or the first with a run of these settings, where one comes before it.
    """
    what = f"{config.data.name}-{config.model.name}-{config.method.name}"
    name = f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', what)[:200]}-s{config.seed}"
    path, count = Path(parent) / name, 1
    while path.exists() and not (taking_up and _can_be_taken(path, config)):
        count += 1
        path = Path(parent) / f"{name}-{count}"
    return path


def _can_be_taken(path: Path, config: Config) -> bool:
    folder = RunFolder(path)
    if not folder.config.exists():
        return RunFolder.is_free(path)
    try:
        return not _others(folder, config)
    except CheckpointError:
        # It cannot be read, and nothing says that it is this run.
        return False


def _others(folder: RunFolder, config: Config) -> list[tuple[str, Any, Any]]:
    """Settings of the run in a folder that are not those of `config`, written out; as RunFolder.differences.

    What is left open, and is found out when a run begins, is as the run has it. The number of threads that decode
    changes no bit, and is as it is asked for now.
    """
    return [
        (key, there, wanted)
        for key, there, wanted in folder.differences(config.as_dict())
        if not (key in MACHINE and wanted in ("auto", None)) and key != "data.workers"
    ]


def is_begun(config: Config, out: str | Path) -> bool:
    """Whether the run is in that folder. Raises: ConfigError where one of other settings is."""
    folder = RunFolder(out)
    if not folder.config.exists():
        return False
    if others := _others(folder, config):
        told = ", ".join(f"{key}={there!r} (asked for: {wanted!r})" for key, there, wanted in others)
        raise ConfigError(f"{out} holds a run with {told}; give the same settings, or another --out")
    return True


def with_workers_of(asked: Config, there: Config) -> Config:
    """The run's settings, with as many threads that decode as are asked for now."""
    if "workers" not in there.data.options:
        return there
    options = {**there.data.options, "workers": asked.data.options.get("workers")}
    return replace(there, data=replace(there.data, options=options))
