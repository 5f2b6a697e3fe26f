"""What modules of a network give while it runs, without an edit to the network.

Forward hooks are there during a call and gone after it, so the network is the user's own again, and nothing of a call
is kept alive by it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ...errors import ConfigError

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
            x = x.transpose(1, 2).reshape(len(x), x.shape[2], *grid(x.shape[1], size))
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


@contextmanager
def _tapped(
    network: nn.Module, stages: Sequence[Stage], images: Tensor, *, stop: bool = False
) -> Iterator[dict[int, Tensor]]:
    """Within the block, a run of the network fills the dictionary: k -> F_k."""
    size = images.shape[-2], images.shape[-1]
    maps: dict[int, Tensor] = {}
    handles = []
    try:
        for k, stage in enumerate(stages):

            def tap(module: nn.Module, args: Any, output: Any, k: int = k, stage: Stage = stage) -> None:
                # At once: a copy must be made before a later layer writes into it.
                maps[k] = stage.map_of(output, size)
                if stop and k == len(stages) - 1:
                    raise _Enough

            handles.append(network.get_submodule(stage.name).register_forward_hook(tap))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def run_with(network: nn.Module, stages: Sequence[Stage], images: Tensor) -> tuple[list[Tensor], Tensor]:
    """F_1..F_K and logits of one pass."""
    with _tapped(network, stages, images) as maps:
        logits = logits_of(network(images))
    return [maps[k] for k in range(len(stages))], logits


def run_upto(network: nn.Module, stages: Sequence[Stage], images: Tensor) -> list[Tensor]:
    """F_1..F_k of the given stages; what comes after the last of them does not run."""
    with _tapped(network, stages, images, stop=True) as maps, suppress(_Enough):
        network(images)
    return [maps[k] for k in range(len(stages))]
