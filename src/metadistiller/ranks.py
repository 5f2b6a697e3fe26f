"""Several processes that train one network together: who they are, and what they tell each other.

Started by torchrun, one process a GPU (or any number on processors). What they exchange are tensors and JSON, never
pickled objects. All of it is for processes that trust each other, in a network that nobody else reaches: so
torch.distributed is made.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from . import launch
from .errors import ConfigError, RunError

# Longer than anything that one rank does while the others wait for it; torchrun ends the others at once where a rank
# dies, so this is for one that hangs.
TIMEOUT = timedelta(minutes=10)

Answer = TypeVar("Answer")


class Ranks:
    """One process by itself; `Group` has several.

    Every method is called by all ranks at the same place in their work, in the same order.

    Attributes:
        rank: of this process, 0 to world - 1.
        world: how many there are.
        local_rank: among those on this machine.
    """

    rank = 0
    world = 1
    local_rank = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """In the place of each tensor, its sum over ranks; the same bits on all of them."""

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensor of each rank, (world, ...)."""
        return tensor[None]

    def spread_(self, tensors: Sequence[Tensor]) -> None:
        """In the place of each tensor, the first rank's."""

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""
        return flag

    def first_says(self, find: Callable[[], Any]) -> Any:
        """What the first rank finds, and no other looks for: anything that JSON can write."""
        return find()

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors, on the processor where they are new to a rank."""
        return dict(tensors)

    def wait(self) -> None:
        """Until all are here."""

    @contextmanager
    def machine_by_machine(self) -> Iterator[None]:
        """The first rank on each machine does what is in the block before the others there do."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()


ALONE = Ranks()


class Group(Ranks):
    """The processes of an initialised torch.distributed.

    Args:
        device: of the tensors that are summed.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.local_rank = launch.local_rank()
        self._device = device
        # What a step waits for on the host must not wait for what a GPU is still busy with.
        self._host: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        self._exchange(tensors, dist.all_reduce)

    def gathered(self, tensor: Tensor) -> Tensor:
        found = tensor.new_empty(self.world, *tensor.shape)
        self._all(lambda: dist.all_gather(list(found.unbind()), tensor.contiguous()))
        return found

    def spread_(self, tensors: Sequence[Tensor]) -> None:
        self._exchange(tensors, lambda flat: dist.broadcast(flat, 0))

    def _exchange(self, tensors: Sequence[Tensor], what: Callable[[Tensor], Any]) -> None:
        """Those of one type together, in one message."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        with torch.no_grad():
            for some in groups.values():
                flat = torch.cat([tensor.reshape(-1).to(self._device) for tensor in some])
                self._all(partial(what, flat))
                for tensor, part in zip(some, torch.split(flat, [t.numel() for t in some]), strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        said = torch.tensor(int(flag))
        self._all(lambda: dist.all_reduce(said, dist.ReduceOp.MAX, group=self._host))
        return bool(said)

    def first_says(self, find: Callable[[], Any]) -> Any:
        words = json.dumps(find(), allow_nan=False).encode() if self.first else b""
        size = torch.tensor(len(words))
        self._all(lambda: dist.broadcast(size, 0, group=self._host))
        said = torch.frombuffer(bytearray(words), dtype=torch.uint8) if self.first else torch.empty(int(size)).byte()
        self._all(lambda: dist.broadcast(said, 0, group=self._host))
        return json.loads(said.numpy().tobytes())

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kinds = self.first_says(
            lambda: {name: [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in tensors.items()}
        )
        found = dict(tensors) if self.first else {}
        if not self.first:
            found = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (dtype, *shape) in kinds.items()}
        self.spread_(list(found.values()))
        return found

    def wait(self) -> None:
        self.any(False)

    def _all(self, exchange: Callable[[], Answer]) -> Answer:
        """Raises: RunError where another rank is gone."""
        try:
            return exchange()
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise RunError(
                f"rank {self.rank} of {self.world} could not exchange with the others ({said}); where one has ended, "
                "torchrun's report names it; after that is mended, the same command with --auto-resume goes on"
            ) from error


def local_device(name: str) -> torch.device:
    """The device called `name` of this rank: cuda is the GPU of its number on this machine."""
    device = torch.device(name)
    return torch.device("cuda", launch.local_rank()) if name == "cuda" and launch.several() else device


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """All ranks, where torchrun has started several processes or torch.distributed is initialised; else this one alone.

    Args:
        device: auto, cpu, cuda or cuda:N, as in a Config.
    Raises: ConfigError where the ranks cannot share that device; RunError where they do not find each other.
    """
    # Builds of torch without it have none of its functions.
    there: Any = getattr(dist, "is_initialized", bool)()
    ours = not there
    if ours and not launch.several():
        yield ALONE
        return
    if device.startswith("cuda:"):
        raise ConfigError(f"device is {device!r}, but each rank needs a GPU of its own; give --device cuda, or cpu")
    on_gpu: bool = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    here = local_device("cuda" if on_gpu else "cpu")
    if ours:
        if on_gpu:
            torch.cuda.set_device(here)
        try:
            store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
            # torchrun's store outlives the processes that it restarts, and still says where the dead ones listened.
            store = dist.PrefixStore(f"attempt {launch.restarts()}", store)  # type: ignore[attr-defined]  # public, unlisted
            backend = "nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"the ranks do not find each other ({' '.join(str(error).split())[:200]}); are all machines started, "
                "with the same --nnodes and --rdzv-endpoint?"
            ) from error
    try:
        yield Group(here)
    finally:
        if ours:
            dist.destroy_process_group()
