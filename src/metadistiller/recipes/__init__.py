"""Runs by name: functions that return a Config. One file a subject.

The recipe named like a data set gives the defaults of every command that trains on it.
"""

import importlib
import pkgutil
from collections.abc import Callable

from ..config import Config
from ..errors import UnknownName


def recipes() -> dict[str, Callable[[], Config]]:
    """Every recipe; its docstring says what it is for, the command and what it costs."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found: dict[str, Callable[[], Config]] = {}
    for name in names:
        found |= importlib.import_module(f"{__name__}.{name}").NAMES
    return found


def recipe(name: str) -> Config:
    """Raises: UnknownName with the near miss."""
    known = recipes()
    if name not in known:
        raise UnknownName("recipe", name, known)
    return known[name]()
