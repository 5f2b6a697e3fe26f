"""Where the time of a run goes: `with timed("look-ahead"):` says what a piece of code is, to whoever keeps a watch.

Without a stopwatch that runs it costs a microsecond and does nothing. What a stopwatch finds goes into the run's
events, once a sitting, and `profile_of` adds that up.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

OTHER = "other"  # what is in no part of its own
HEADINGS = ("part", "seconds", "share, %", "calls", "ms a call")


class Stopwatch:
    """Seconds of each part, exclusive: while an inner part runs, the outer one's clock stands.

    Args:
        settle: called at each change of part, before the clock is read: on a GPU whatever waits for it.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._settle = settle
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within the block, time is this part's."""
        self._change()
        self._stack.append(name)
        self.seconds.setdefault(name, 0.0)
        self.counts[name] = self.counts.get(name, 0) + 1
        try:
            yield
        finally:
            self._change()
            self._stack.pop()

    def read(self) -> dict[str, dict[str, float]]:
        """`seconds` and `calls` of each part until now, parts that still run included."""
        self._change()
        return {name: {"seconds": seconds, "calls": self.counts[name]} for name, seconds in self.seconds.items()}

    def _change(self) -> None:
        self._settle()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now


_running: ContextVar[Stopwatch | None] = ContextVar("running", default=None)


@contextmanager
def keeping(stopwatch: Stopwatch | None) -> Iterator[None]:
    """Within the block, `timed` tells this stopwatch; None tells nobody."""
    token = _running.set(stopwatch)
    try:
        yield
    finally:
        _running.reset(token)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Within the block, time belongs to `name`."""
    stopwatch = _running.get()
    if stopwatch is None:
        yield
    else:
        with stopwatch.part(name):
            yield


@dataclass(frozen=True)
class Part:
    """A part of a run's time.

    Attributes:
        name: as `timed` had it.
        seconds: without those of parts inside it.
        calls: how often it began.
    """

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Profile:
    """Where the time of a run went.

    Attributes:
        parts: most seconds first, OTHER last.
        sittings: in how many of them it was taken, >= 1.
        all_sittings: how many the run had.
    """

    parts: tuple[Part, ...]
    sittings: int
    all_sittings: int

    @property
    def seconds(self) -> float:
        """Of all parts together, above 0."""
        return math.fsum(part.seconds for part in self.parts)

    def share(self, part: Part) -> float:
        """Percent."""
        return 100 * part.seconds / self.seconds

    def cells(self, part: Part) -> list[str]:
        """A row below HEADINGS. OTHER is no piece of code that is called."""
        called = part.name != OTHER and part.calls > 0
        return [
            part.name,
            f"{part.seconds:,.2f}",
            f"{self.share(part):.1f}",
            f"{part.calls:,}" if called else "",
            f"{1000 * part.seconds / part.calls:,.2f}" if called else "",
        ]

    def coverage(self, run_seconds: float) -> str:
        """Over what it was taken: "over 8.1 s", or "over 8.1 s of 20.4 s, in 1 of 2 sittings"."""
        if self.sittings >= self.all_sittings:
            return f"over {self.seconds:,.1f} s"
        sittings = f"in {self.sittings} of {self.all_sittings} sittings"
        return f"over {self.seconds:,.1f} s of {run_seconds:,.1f} s, {sittings}"


def profile_of(events: Iterable[Mapping[str, Any]]) -> Profile | None:
    """The sum of what a run's events say of its time; None where they say nothing.

    Raises: KeyError, TypeError, ValueError where an event does not hold what is written there.
    """
    events = list(events)
    found = [dict(event["parts"]) for event in events if event["event"] == "profile"]
    if not found:
        return None
    parts = [
        Part(
            name,
            math.fsum(float(parts[name]["seconds"]) for parts in found if name in parts),
            sum(int(parts[name]["calls"]) for parts in found if name in parts),
        )
        for name in dict.fromkeys(name for parts in found for name in parts)
    ]
    if not all(0 <= part.seconds < math.inf for part in parts) or not any(part.seconds for part in parts):
        raise ValueError("seconds of a profile are out of range")
    parts.sort(key=lambda part: (part.name == OTHER, -part.seconds, part.name))
    return Profile(tuple(parts), len(found), sum(event["event"] in ("start", "resume") for event in events))
