"""A module called through one of its functions: functional_call only ever calls `forward`."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Bound(nn.Module):
    """A module seen through one of its functions, which is the `forward` here; its names have the prefix "module.".

    Args:
        module: whose parameters and buffers may be put in place by functional_call.
        function: of `module`, from images.
    """

    def __init__(self, module: nn.Module, function: Callable[[Tensor], T]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(images)
