"""A budget of time: how long a command may take before it saves and stops."""

import re
import time
from collections.abc import Callable

from .errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def seconds(text: str) -> float:
    """What `25m`, `90s`, `1.5h` or `1h30m` mean, in seconds.

    Raises: ConfigError for anything else, and for nothing at all.
    """
    found = _PART.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise ConfigError(f"--budget is {text!r}; take a number with s, m, h or d, such as 25m or 1h30m")
    total = sum(float(number) * _SECONDS[unit] for number, unit in found)
    if total <= 0:
        raise ConfigError(f"--budget is {text!r}; take more than nothing")
    return total


def no_limit() -> bool:
    """What is asked whether to stop, of a run that ends when it is done."""
    return False


class Budget:
    """So many seconds from now; None for no limit."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    @property
    def left(self) -> float | None:
        """Seconds, never below 0; None for no limit."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def spent(self) -> bool:
        """Whether it is time to save and stop."""
        return self._end is not None and self._clock() >= self._end
