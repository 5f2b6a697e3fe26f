"""Where a run happens: device, precision, memory format, and how much memory it took."""

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..config import MACHINE, Config
from ..data import seeded
from ..errors import ConfigError
from ..ranks import ALONE, Ranks, local_device
from ..records import source_commit
from .bfloat16 import is_faulty
from .formats import CANDIDATES, Formats, fastest


def processor_name() -> str:
    """The processor's model where the system tells it, such as "AMD EPYC 9654"; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models and models[0] else platform.processor() or platform.machine()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix units for bfloat16 are there, and right; without them it is slower than float32 (pytorch issue
    118499).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Younger than the oldest torch that we support; without it we cannot know, and float32 is never wrong.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    there = any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))
    return there and not is_faulty()


def resolve(config: Config) -> Config:
    """The Config with every "auto" decided for this machine, so that a resumed run computes as it began.

    Raises: ConfigError where the device is not there.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name!r}; take auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs; take another, or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; take auto, cpu, cuda or cuda:N")
    threads = config.threads or torch.get_num_threads()
    precision, layout = _formats(config, device, threads)
    return replace(config, device=str(device), precision=precision, memory_format=layout, threads=threads)


def resolve_together(config: Config, ranks: Ranks = ALONE) -> Config:
    """`resolve`, by the first rank for all: what is measured comes out differently from process to process.

    Raises: ConfigError.
    """

    def here() -> dict[str, Any]:
        resolved = resolve(config)
        return {name: getattr(resolved, name) for name in MACHINE}

    return replace(config, **ranks.first_says(here))


def _formats(config: Config, device: torch.device, threads: int) -> Formats:
    """The fastest that the settings allow."""
    among = [
        formats
        for formats in CANDIDATES
        if config.precision in ("auto", formats.precision)
        and config.memory_format in ("auto", formats.memory_format)
        # Without such units bfloat16 is slower, and it is not asked for: nothing to measure.
        and (config.precision != "auto" or formats.precision == "float32" or has_fast_bfloat16(device))
    ]
    side = config.data.options.get("size", 32)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    machine = f"{name}, {threads} threads, torch {torch.__version__}"
    return fastest(config.model, (side, side), device=device, among=among, machine=machine)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to hand freed memory out again instead of giving it back to the system.

    Otherwise every activation of 32 MiB or more is mapped, faulted in page by page and unmapped again in each step: a
    quarter of a float32 training step of ResNet18 at batch 128. It is a switch of the whole process, so the command
    sets it, for itself, and the library does not.

    Returns: whether there is such an allocator.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_..., malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26))
    done = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings]
    return all(done)


@dataclass(frozen=True)
class Machine:
    """A resolved Config's device and number formats."""

    device: torch.device
    bfloat16: bool
    channels_last: bool

    @classmethod
    def of(cls, config: Config) -> "Machine":
        """Also sets torch's number of threads, which changes the last bits of every sum, and cuDNN's switches."""
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = local_device(config.device)
        if device.type == "cuda":
            # Of the functions below not all bring CUDA up by themselves.
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch declares no types here
            torch.backends.cudnn.benchmark = True
            # Convolutions in TF32 keep 10 bits, fewer than the meta-gradient's differences need.
            torch.backends.cudnn.allow_tf32 = False
            torch.cuda.reset_peak_memory_stats(device)
        return cls(device, config.precision == "bfloat16", config.memory_format == "channels_last")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, module: nn.Module) -> None:
        """Move a module here, in this memory format."""
        module.to(self.device).to(memory_format=self.memory_format)

    def arrange(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.memory_format)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    @contextmanager
    def drawing(self, seed: int, *purpose: int | str) -> Iterator[None]:
        """Within the block, what layers draw (dropout) is a function of (seed, purpose) alone, as all else is."""
        with seeded(seed, *purpose):
            if self.device.type == "cuda":
                index = torch.cuda.current_device() if self.device.index is None else self.device.index
                torch.cuda.default_generators[index].manual_seed(torch.default_generator.initial_seed())
            yield

    def peak_memory_mb(self) -> float:
        """Largest memory so far, MiB: of the allocator on a GPU, of the whole process otherwise."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    def describe(self) -> dict[str, Any]:
        """What the bits of a run depend on besides its Config."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor_name()
        return {
            "package": __version__,
            "commit": source_commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.system(),
            "device": f"{self.device} ({name})",
            "threads": torch.get_num_threads(),
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "memory_format": "channels_last" if self.channels_last else "contiguous",
        }
