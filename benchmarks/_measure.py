"""What the benchmarks measure with: time, memory and operations of a step, and what must be said of the machine.

A step is a function without arguments that does the same work at each call and leaves nothing behind: what it returns
is dropped.
"""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from metadistiller.engine.machine import processor_name

Step = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)

MIB = 2**20


def environment(device: torch.device) -> dict[str, Any]:
    """What a time or a memory must be read with. The load is the mean number of busy processes in the last minute."""
    found: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def milliseconds(step: Step, device: torch.device) -> float:
    """Of one call, until the device is done."""
    settle(device)
    began = time.perf_counter()
    step()
    settle(device)
    return 1000 * (time.perf_counter() - began)


def medians(
    steps: Mapping[Name, Step],
    *,
    device: torch.device,
    repeats: int,
    warmup: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> dict[Name, float]:
    """Median milliseconds of each step.

    The steps take turns, so that whatever else runs on the machine slows all of them alike; the first `warmup` turns
    are thrown away. Garbage is collected between two calls, outside the time.
    """
    seen: dict[Name, list[float]] = {name: [] for name in steps}
    for turn in range(warmup + repeats):
        for name, step in steps.items():
            gc.collect()
            seen[name].append(milliseconds(step, device))
        note(f"  turn {turn + 1} of {warmup + repeats}" + (", warm-up" if turn < warmup else ""))
    return {name: statistics.median(times[warmup:]) for name, times in seen.items()}


def peak_memory_mb(step: Step, device: torch.device) -> float:
    """The most that torch has allocated during one call beyond what it held before, MiB.

    On a processor it is counted from torch's own allocations, so it is the same at every call, and pages that the
    system keeps ready are not in it. What libraries allocate past torch (oneDNN's scratch space) is not seen either.
    """
    gc.collect()
    if device.type == "cuda":
        settle(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        settle(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    # The profiler tells standard error that it begins and ends.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    # Kept by address: torch's own running total also counts what an earlier profile has left behind.
    live: dict[int, int] = {}
    total = peak = 0
    for address, size in _allocations(profiler):
        if size > 0:
            live[address] = size
            total += size
        else:
            total -= live.pop(address, 0)
        peak = max(peak, total)
    return peak / MIB


def _allocations(profiler: profile) -> list[tuple[int, int]]:
    """Address and bytes of each allocation, of each release the bytes below 0; in their order."""
    results = profiler.profiler.kineto_results
    found = []
    stack = list(results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation and event.extra_fields.device.type == "cpu":
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    found.sort(key=lambda allocation: allocation[0])
    return [(address, size) for _, address, size in found]


class Counted:
    """A step that counts; peak_memory_mb takes it like any other, and finds the same but for a few bytes.

    Attributes:
        operations: of ATen in the last call, the backward passes' and views included.
        result: what it returned.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self.operations = 0
        self.result: Any = None

    def __call__(self) -> None:
        with _Counting() as counting:
            self.result = self._step()
        self.operations = counting.operations


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def resident_mb() -> float:
    """Memory that this process has in use, as the system sees it, MiB. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def settle(device: torch.device) -> None:
    """Wait for what a GPU still does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(text: str) -> None:
    """A line for whoever watches; results alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


def print_json(result: Mapping[str, Any]) -> None:
    """One JSON object on the last line of standard output."""
    print(json.dumps(result), flush=True)


def rounded(value: Any, digits: int = 4) -> Any:
    """The same with every float cut to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: rounded(part, digits) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return value
