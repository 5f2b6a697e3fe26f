"""What torchrun tells a process that it starts, in its environment: which of how many it is."""

import os

from .errors import ConfigError


def several() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this process is the one that speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def local_rank() -> int:
    """Of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> int:
    """How often torchrun has started all of them again (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def refuse_several(command: str) -> None:
    """Raises: ConfigError where this process is one of several."""
    if several():
        raise ConfigError(
            f"'metadistiller {command}' starts runs by itself, and torchrun has started it several times; start it "
            "without torchrun, or each run by itself: torchrun -m metadistiller train ..."
        )
