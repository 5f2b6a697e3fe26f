"""A network's answer without a trace in it, for an objective in which another player moves."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@torch.no_grad()
def answer_apart(module: nn.Module, images: Tensor) -> Any:
    """`module(images)` in the module's own mode, without gradient and with clones of its buffers.

    Batch normalisation in training mode writes running statistics; with clones they see each batch once, in the
    objective in which the module itself moves.
    """
    return functional_call(module, {name: value.clone() for name, value in module.named_buffers()}, (images,))
