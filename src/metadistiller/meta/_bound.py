"""A module called through one of its functions, with other parameters than its own."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call

from ..nn import Bound

T = TypeVar("T")


def call(module: nn.Module, function: Callable[[Tensor], T], params: Mapping[str, Tensor], images: Tensor) -> T:
    """`function(images)` of `module` with other parameters, and with clones of its buffers.

    Batch normalisation in training mode writes running statistics; clones keep these passes out of the network that
    ships.
    """
    state = {f"module.{name}": value for name, value in params.items()}
    state |= {f"module.{name}": value.clone() for name, value in module.named_buffers()}
    result: T = functional_call(Bound(module, function), state, (images,))
    return result
