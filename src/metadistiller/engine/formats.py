"""Which number format and memory format a network trains fastest in: measured, once for each machine and network.

What is fast depends on the network as much as on the machine: bfloat16 with channels_last halves the step of a ResNet
on a processor with bfloat16 units, and lengthens that of a ShuffleNet by a third.

The answer is kept in a file of the user's cache, so that every later run of the network on this machine computes in the
same formats and so with the same bits, however close the race was.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Choice
from ..errors import CheckpointError
from ..nn import build_network
from ..records import read_json, write_json

IMAGES = 8  # of a measured step
WARM_UP, STEPS = 1, 3
MARGIN = 0.9  # a later candidate must be faster than this share of the best before it


class Formats(NamedTuple):
    """How a network computes.

    Attributes:
        precision: float32 or bfloat16.
        memory_format: contiguous or channels_last.
    """

    precision: Literal["float32", "bfloat16"]
    memory_format: Literal["contiguous", "channels_last"]


# The likeliest first: what follows is given up as soon as it is slower.
CANDIDATES = (
    Formats("bfloat16", "channels_last"),
    Formats("float32", "channels_last"),
    Formats("bfloat16", "contiguous"),
    Formats("float32", "contiguous"),
)


# Of the answers in the cache: those that were found before damages_memory, or while it let more pass, count no more.
_ANSWERS = 3
_LANES = 16  # float32 numbers in the widest vector register of x86


def cache_file() -> Path:
    """Where answers are kept."""
    parent = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(parent) / __name__.partition(".")[0] / "formats.json"


def fastest(
    model: Choice, size: tuple[int, int], *, device: torch.device, among: Sequence[Formats], machine: str
) -> Formats:
    """The fastest of some formats for training steps of a network, from the cache or by measuring.

    Args:
        model: the network.
        size: height and width of the images.
        among: in order of preference; one at least.
        machine: whatever else the answer depends on, for the cache: processor, threads, version of torch.
    """
    if len(among) == 1:
        return among[0]
    key = json.dumps(
        [_ANSWERS, machine, str(device), model.as_dict(), list(size), [list(formats) for formats in among]]
    )
    known = _read()
    if key not in known:
        measured = measure(model, size, device=device, among=among)
        # Where nothing could be tried, the last is the plainest.
        best = next((formats for formats in among if formats in measured), among[-1])
        for formats in among:
            if formats in measured and measured[formats] < MARGIN * measured[best]:
                best = formats
        # Somebody else may have written while this measured.
        known = _read() | {key: best}
        _write(known)
    return known[key]


def measure(
    model: Choice, size: tuple[int, int], *, device: torch.device, among: Sequence[Formats]
) -> dict[Formats, float]:
    """Seconds of a training step in each of some formats; those given up as too slow are left out, and those that would
    damage memory.

    On a processor seconds of one thread's work, which another job on the machine does not lengthen.

    The network has weights of its own and 100 classes; nothing of a run is touched.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        network = build_network(model, 100).to(device).train()
        images = torch.randn(IMAGES, 3, *size, device=device)
        labels = torch.arange(IMAGES, device=device) % 100
        seconds: dict[Formats, float] = {}
        for formats in among:
            if formats.memory_format == "channels_last" and damages_memory(network, device):
                continue
            best = min(seconds.values(), default=float("inf"))
            found = _seconds(network, images, labels, formats, give_up=2 * best)
            if found is not None:
                seconds[formats] = found
    return seconds


def damages_memory(network: nn.Module, device: torch.device) -> bool:
    """Whether training it in channels_last may write past the end of memory.

    oneDNN's gradient of the weights of a strided 1x1 convolution does, in channels_last and in both precisions, where
    there are fewer channels than a vector register takes (uxlfoundation/oneDNN#6035, open; torch 2.14.1). Seen here
    with AVX2 for 2 to 7 channels, with AVX-512 for 3 to 15, there as a crash with two threads and a batch that they
    cannot halve; never for 16 to 40, for stride 1, for 3x3, nor contiguous. Which instructions oneDNN takes is not
    asked: environment variables change that of one library alone.
    """
    if device.type != "cpu":
        return False
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(
        each.kernel_size == (1, 1) and max(each.stride) > 1 and each.in_channels // each.groups < _LANES
        for each in convolutions
    )


def _seconds(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, formats: Formats, *, give_up: float
) -> float | None:
    """The fastest of a few steps; None where the first, cold one takes longer than `give_up`."""
    layout = torch.channels_last if formats.memory_format == "channels_last" else torch.contiguous_format
    network = network.to(memory_format=layout)
    images = images.contiguous(memory_format=layout)
    times = []
    for step in range(WARM_UP + STEPS):
        began = _clock(images.device)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=formats.precision == "bfloat16"):
            loss = F.cross_entropy(network(images).float(), labels)
        torch.autograd.backward(loss)
        network.zero_grad(set_to_none=True)
        times.append(_clock(images.device) - began)
        if step == 0 and times[0] > give_up:
            return None
    return min(times[WARM_UP:])


def _clock(device: torch.device) -> float:
    """Seconds, once all work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read() -> dict[str, Formats]:
    """What is known; nothing where the file is missing, damaged or of another form: it is measured anew."""
    try:
        known = read_json(cache_file())
    except (CheckpointError, OSError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: formats for key, value in known.items() for formats in CANDIDATES if value == list(formats)}


def _write(known: dict[str, Formats]) -> None:
    """Keep it; a cache that cannot be written costs the next run a second, and this one nothing."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    except OSError:
        return
