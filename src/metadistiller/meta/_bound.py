"""A module called through one of its functions, with other parameters than its own."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")


class _Bound(nn.Module):
    """A module seen through one of its functions, as functional_call only ever calls `forward`; its names have the
    prefix "module.".
    """

    def __init__(self, module: nn.Module, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(images)


def call(module: nn.Module, function: Callable[[Tensor], T], params: Mapping[str, Tensor], images: Tensor) -> T:
    """`function(images)` of `module` with other parameters, and with clones of its buffers.

    Batch normalisation in training mode writes running statistics; clones keep these passes out of the network that
    ships.
    """
    state = {f"module.{name}": value for name, value in params.items()}
    state |= {f"module.{name}": value.clone() for name, value in module.named_buffers()}
    result: T = functional_call(_Bound(module, function), state, (images,))
    return result
