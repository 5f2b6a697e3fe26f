"""What layers draw (dropout, stochastic depth) in one pass, drawn again in another.

Eq. 8 compares passes over X_train at theta_s: they must be passes of one function, so of one set of masks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Draws:
    """The state of torch's global generators now: the processor's, and the current GPU's where one is in use."""

    def __init__(self) -> None:
        self._processor = torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within the block, layers draw what they drew from here on; afterwards the generators go on as before it."""
        after = Draws()
        self._put_back()
        try:
            yield
        finally:
            after._put_back()

    def _put_back(self) -> None:
        torch.set_rng_state(self._processor)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
