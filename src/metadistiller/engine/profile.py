"""A stopwatch for the machine that a run is on."""

from functools import partial

import torch

from ..timing import Stopwatch
from .machine import Machine


def stopwatch_of(machine: Machine) -> Stopwatch:
    """One that waits for a GPU at each change of part.

    A GPU computes after it was told to: without waiting, what a part has asked for would count in a later one. With it
    processor and GPU take turns, so the run is slower than it is unmeasured.
    """
    if machine.device.type == "cuda":
        return Stopwatch(partial(torch.cuda.synchronize, machine.device))
    return Stopwatch()
