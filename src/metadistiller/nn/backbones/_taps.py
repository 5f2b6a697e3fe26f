"""What modules of a network give while it runs, without an edit to the network.

Forward hooks are there during a call and gone after it, so the network is the user's own again, and nothing of a call
is kept alive by it. Only a compiled student keeps them, as nothing compiles their registration.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ConfigError
from ._base import Visit

Layout = Literal["maps", "channels_last", "tokens"]


@dataclass(frozen=True)
class Stage:
    """Where a stage ends.

    Attributes:
        name: of the module whose output is F_k, as named_modules has it.
        layout: of that output: maps (N, D, H, W), channels_last (N, H, W, D), or tokens (N, L, D).
        prefix: tokens before those of the map, such as the class token.
        overwritten: whether a later layer writes into that output, so that it must be copied to stay F_k.
    """

    name: str
    layout: Layout = "maps"
    prefix: int = 0
    overwritten: bool = False

    def map_of(self, output: Any, size: tuple[int, int]) -> Tensor:
        """F_k as (N, D, H, W), from what the module gave for images of `size` = (height, width)."""
        x = first_tensor(output)
        assert x is not None
        if self.layout == "channels_last":
            x = x.permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            x = x[:, self.prefix :]
            # By the shape: len() would be a constant in what torch.export traces.
            x = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid(x.shape[1], size))
        return x.clone() if self.overwritten else x


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first entry of the tuple or record that it is; None where that is no tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Sequence) and output and isinstance(output[0], Tensor):
        return output[0]
    if isinstance(output, dict):
        value = next(iter(output.values()), None)
        return value if isinstance(value, Tensor) else None
    return None


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """The output with another tensor where `first_tensor` found one."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, dict):
        # A record of transformers is a dictionary too.
        changed = copy(output)
        changed[next(iter(output))] = tensor
        return changed
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: tensor})
    return type(output)([tensor, *output[1:]])


def grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of `count` tokens that lie on an image of `size` = (height, width)."""
    height, width = size
    rows = max(1, round((count * height / width) ** 0.5))
    if count % rows:
        raise ConfigError(f"{count} tokens do not lie on a grid over images of {height}x{width} pixels")
    return rows, count // rows


def logits_of(output: Any) -> Tensor:
    """Logits (N, C) from what a network gives: a tensor, or a record with `logits` in it.

    Raises: ConfigError where it is anything else.
    """
    # torchvision's Inception and GoogLeNet in training mode, and every image classifier of transformers.
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if isinstance(output, dict) and found is None:
        found = output.get("logits")
    if isinstance(found, Tensor):
        return found
    kind = type(output).__name__
    many = f" of {len(output)}" if isinstance(output, tuple | list | dict) else ""
    raise ConfigError(
        f"the network gives a {kind}{many}, not logits; take a network with one output (N, C), or wrap it in a module "
        "that returns the one to train"
    )


class _Enough(Exception):
    """The last stage that was wanted is there."""


class _Record:
    """What the hooks of a call write into; idle between calls.

    Attributes:
        size: height and width of the call's images.
        maps: k -> F_k; None while no call wants them.
        stop: whether the pass ends with the last stage.
    """

    def __init__(self) -> None:
        self.size = (0, 0)
        self.maps: dict[int, Tensor] | None = None
        self.stop = False


class _Tap:
    """A forward hook; an object, so that a copy of the network writes into the copy's own record."""

    def __init__(self, record: _Record, stage: Stage, k: int, *, last: bool) -> None:
        self._record, self._stage, self._k, self._last = record, stage, k, last

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        maps = self._record.maps
        if maps is None:
            return
        # At once: a copy must be made before a later layer writes into it.
        maps[self._k] = self._stage.map_of(output, self._record.size)
        if self._last and self._record.stop:
            raise _Enough


class _Visitor:
    """A forward hook that puts something else in the place of a module's output."""

    def __init__(self, visit: Visit, k: int) -> None:
        self._visit, self._k = visit, k

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        carried = first_tensor(output)
        assert carried is not None
        onward = self._visit(self._k, carried)
        if onward is None:
            raise _Enough
        return with_first_tensor(output, onward)


class Taps:
    """Reads stages of a network while it runs.

    Hooks are there during a call and gone after it, or stay between `hold` and `release`: torch.compile follows hooks
    that are there already, but not their registration.

    Args:
        stages: F_1..F_K, in the order of the run.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        # The same one each time, as compiled code knows it.
        self._held = _Record()
        self._handles: list[RemovableHandle] = []
        self._holding = False

    def hold(self, network: nn.Module) -> None:
        """Register the hooks until `release`."""
        if not self._holding:
            self._handles = _register(network, self._held, self._stages)
            self._holding = True

    def release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._holding = False

    def all(self, network: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """F_1..F_K and logits of one pass."""
        with self._tapped(network, self._stages, images, stop=False) as maps:
            logits = logits_of(network(images))
        return [maps[k] for k in range(len(self._stages))], logits

    def upto(self, network: nn.Module, images: Tensor, count: int | None) -> list[Tensor]:
        """F_1..F_count; what comes after the last of them does not run."""
        wanted = self._stages[:count]
        with self._tapped(network, wanted, images, stop=True) as maps, suppress(_Enough):
            network(images)
        return [maps[k] for k in range(len(wanted))]

    def visited(self, network: nn.Module, images: Tensor, visit: Visit) -> Tensor | None:
        """See Backbone.visited."""
        handles = [
            network.get_submodule(stage.name).register_forward_hook(_Visitor(visit, k))
            for k, stage in enumerate(self._stages[:-1], start=1)
        ]
        try:
            return logits_of(network(images))
        except _Enough:
            return None
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _tapped(
        self, network: nn.Module, wanted: Sequence[Stage], images: Tensor, *, stop: bool
    ) -> Iterator[dict[int, Tensor]]:
        """Within the block, a run of the network fills the dictionary: k -> F_k."""
        # Hooks that stay never stop a run.
        stay = self._holding and not stop
        record = self._held if stay else _Record()
        maps: dict[int, Tensor] = {}
        record.maps, record.size, record.stop = maps, (images.shape[-2], images.shape[-1]), stop
        handles = [] if stay else _register(network, record, wanted)
        try:
            yield maps
        finally:
            record.maps = None
            for handle in handles:
                handle.remove()


def _register(network: nn.Module, record: _Record, wanted: Sequence[Stage]) -> list[RemovableHandle]:
    return [
        network.get_submodule(stage.name).register_forward_hook(_Tap(record, stage, k, last=k == len(wanted) - 1))
        for k, stage in enumerate(wanted)
    ]
