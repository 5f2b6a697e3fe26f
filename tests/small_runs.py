"""Small runs, whole and broken off."""

from pathlib import Path
from typing import Any

import pytest

from metadistiller import assemble
from metadistiller.config import Choice, Config
from metadistiller.engine.step import Stepper

# The narrowest that is trained in channels_last on a processor (damages_memory).
SIXTEEN_WIDE = Choice(name="resnet10", options={"width": 16})


def train(config: Config, out: Path) -> Path:
    return assemble.train(config, out, quiet=True).folder


class Interrupted(Exception):
    """Stands for a kill: raised from inside the loop."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Let the loop take so many gradients of any player, then break off."""
    whole = Stepper._differentiate
    left = [updates]

    def update(self: Any, *args: Any) -> None:
        if left[0] == 0:
            raise Interrupted
        left[0] -= 1
        whole(self, *args)

    monkeypatch.setattr(Stepper, "_differentiate", update)
