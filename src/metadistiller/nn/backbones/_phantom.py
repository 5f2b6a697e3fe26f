"""A copy of a network whose values have shapes and no storage, to be run for what its maps look like."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def phantom(module: M) -> M:
    """A deep copy on the meta device; the original stays as it is, and so do caches that it keeps in attributes."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def floating_parameter(module: nn.Module) -> nn.Parameter | None:
    """The first of them; the others are taken to be of its device and precision."""
    return next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)


def on_phantom(
    module: M, function: Callable[[M, Tensor], T], in_channels: int, size: tuple[int, int], *, gradient: bool = False
) -> T:
    """`function(copy of module, images)` for two images, without computing anything where the network allows it.

    Networks that look at values, or that make tensors on a device of their own, are run on a real copy.

    Args:
        size: height and width of the images.
        gradient: whether the result has a graph.
    """
    first = floating_parameter(module)
    dtype, device = (torch.float32, torch.device("cpu")) if first is None else (first.dtype, first.device)
    with torch.set_grad_enabled(gradient):
        try:
            copied = phantom(module)
            with torch.device("meta"):
                return function(copied, torch.empty(2, in_channels, *size, dtype=dtype))
        # Whatever it is that the network cannot do there, the real run decides.
        except Exception:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                return function(copy.deepcopy(module), torch.randn(2, in_channels, *size, dtype=dtype, device=device))
