"""What asks a command to save and stop: SIGTERM and SIGUSR1 of a scheduler, SIGINT of Ctrl-C, its parent's end."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from .errors import Paused

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Set for a process whose standard input is a pipe that its parent alone has the other end of.
WITH_PARENT = "METADISTILLER_STOPS_WITH_PARENT"


def stop_with_parent(signals: "Signals") -> None:
    """Have this process asked to stop, as by SIGTERM, when its parent ends, where that is a command of ours that said
    so (WITH_PARENT).

    SIGKILL lets no parent say anything, but closes the pipe, on every operating system.
    """
    # What this process starts itself has another parent.
    if os.environ.pop(WITH_PARENT, None) is not None:
        threading.Thread(target=_wait_for_parent, args=(signals,), daemon=True).start()


def _wait_for_parent(signals: "Signals") -> None:
    # Nothing is ever written into it: what is read is the end.
    os.read(0, 1)
    # For a process that ignores the signal, as one does whose first parent did.
    signals.remember(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


class Signals:
    """Within the block, whether somebody has asked this process to save and stop; to be called between any two steps.

    Until it is called for the first time there is nothing to save: a signal then ends the block with Paused wherever it
    is. Afterwards a signal is only remembered. A second Ctrl-C is a KeyboardInterrupt, whatever goes on. Signals that
    are ignored when the block begins stay ignored, and outside the main thread, where Python takes none, nothing is
    installed. Handlers are those from before again after the block.
    """

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._interrupts = 0
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether to save and stop."""
        self._asked = True
        return self._first is not None

    def remember(self, number: signal.Signals) -> None:
        """As if it had come between two steps."""
        self._first = self._first or number

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises: Paused in the place of one that a signal led to, with the signal's name."""
        for number, before in self._before.items():
            # None stands for a handler that was not installed by Python, and that Python cannot install again.
            signal.signal(number, signal.SIG_DFL if before is None else before)
        if self._first is None or not isinstance(error, Exception):
            return
        if not self._asked:
            # Whatever ended it: imports wrap what is raised inside them, or try something else.
            raise Paused(
                f"{self._first.name}: stopped before training had begun, so there was nothing to save; give the same "
                "command again, with --auto_resume where 'metadistiller train' has made its run folder already"
            ) from None
        if isinstance(error, Paused):
            raise Paused(f"{self._first.name}: {error}") from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.remember(signal.Signals(number))
        if not self._asked:
            raise Paused("stopped before training had begun")
