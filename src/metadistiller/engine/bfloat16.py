"""Whether a processor computes convolutions in bfloat16 as in float32, but for rounding.

Some do not, in silence. oneDNN's forward convolution for AMX gives numbers that have nothing to do with the right ones
where kernel and stride are 4 or more wide and channels are 8, 16 or 24 (torch 2.14.1; pytorch/pytorch#169688 has
another such fault). The exit of a narrow network has such a layer: it trains on wrong numbers, its loss falls, and when
it is evaluated, in float32, it is right on no more images than chance.

So the numbers are looked at and not the name of the processor: what another one gets wrong is found too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as Convolution

from ..data import seeded
from ..methods import Method
from ..nn import Backbone

PROBE = 2  # images that are shown to the networks to see what arrives at each layer
ENDS = 8  # images at either end of a batch that are compared
TOLERANCE = 0.2  # of the norm; rounding to bfloat16 makes 0.002, sums in bfloat16 0.015, a fault 0.9 and more

# The strided layers of exits, as narrow networks have them.
CHANNELS, KERNELS, SIDE = (8, 16, 24, 32), (2, 4, 8), 32

REMEDY = (
    "begin with --precision float32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, with which an Intel processor leaves "
    "AMX alone"
)

# What has come out right in this process: a second run of a network need not look again.
_right: set[tuple[str, tuple[int, ...], bool, int]] = set()


@cache
def is_faulty() -> bool:
    """Whether this processor gets a strided layer of some exit wrong in bfloat16, so that it is not taken unasked."""
    with seeded(0, "bfloat16"):
        layers = [nn.Conv2d(each, each, kernel, stride=kernel) for each in CHANNELS for kernel in KERNELS]
        return any(not _furthest_off(each, (1, each.in_channels, SIDE, SIDE), False) <= TOLERANCE for each in layers)


def miscomputed(method: Method, size: tuple[int, int], *, batch_size: int, channels_last: bool) -> str | None:
    """The first convolution that comes out wrong in bfloat16, forwards or backwards, and by how much, in words.

    Each that the student, its exits, its soft targets and the networks that it learns from put to use is tried on
    random numbers, of the shape that arrives there, with random weights. A layer that runs in training alone, as
    FitNet's regressor, is not reached.

    Args:
        method: on the processor; it stays as it is.
        size: height and width of the images.
        batch_size: the largest of a step: which code computes a layer depends on it, and faults begin at some size.
        channels_last: whether the images are.
    Returns: None where all are right.
    """
    with seeded(0, "bfloat16"):
        for layer, shape in _convolutions(method, torch.randn(PROBE, 3, *size)):
            whole = (shape[0] * batch_size // PROBE, *shape[1:])
            # Other threads, other code.
            key = (str(layer), whole, channels_last, torch.get_num_threads())
            if key in _right:
                continue
            off = _furthest_off(layer, whole, channels_last)
            # Not a number, too.
            if not off <= TOLERANCE:
                return f"{layer} of an input of {' x '.join(map(str, whole))}, by {100 * off:.0f} %"
            _right.add(key)
    return None


def _convolutions(method: Method, images: Tensor) -> list[tuple[Convolution, tuple[int, ...]]]:
    """Each with the shape of its input; once for every shape that it gets."""
    found: dict[tuple[Convolution, tuple[int, ...]], None] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert isinstance(layer, Convolution)
        found[layer, tuple((*inputs, *named.values())[0].shape)] = None

    with _hooked(method, note), method.evaluating(), torch.no_grad():
        method.exits(images)
        method.soft_targets(images)
        # A teacher or a peer; of a teacher that is yet to be trained there are no weights.
        for network in method.modules():
            if isinstance(network, Backbone) and not any(each.is_meta for each in network.parameters()):
                network(images)
    return list(found)


@contextmanager
def _hooked(method: Method, note: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    layers = [layer for layer in method.modules() if isinstance(layer, Convolution)]
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _furthest_off(layer: Convolution, shape: tuple[int, ...], channels_last: bool) -> float:
    """Of the output and the gradients, the largest difference from float32, as a share of its norm; of the images at
    either end of the batch.
    """
    layer = deepcopy(layer).train().requires_grad_()
    layout = torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
    # Numbers that bfloat16 has, so that both begin with the same.
    random = partial(torch.randn, dtype=torch.bfloat16)
    weights = list(layer.parameters())
    with torch.no_grad():
        for each in weights:
            each.copy_(random(each.shape))
    images = random(shape).float().contiguous(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = layer(images)
    # float32 takes longer, and has a few images to do. Of the others the gradient is nought, and so their part in the
    # weights'.
    few = torch.tensor(sorted({*range(min(ENDS, len(images))), *range(max(0, len(images) - ENDS), len(images))}))
    gradient = torch.zeros_like(given).index_copy(0, few, random((len(few), *given.shape[1:])).to(given.dtype))
    found = [given[few], *torch.autograd.grad(given, (images, *weights), gradient)]
    found[1] = found[1][few]
    shown = images.detach()[few].contiguous(memory_format=layout).requires_grad_()
    expected = layer(shown)
    right = [expected, *torch.autograd.grad(expected, (shown, *weights), gradient[few].float())]
    off = [
        (one.float() - other).norm() / other.norm().clamp_min(1e-12) for one, other in zip(found, right, strict=True)
    ]
    return float(torch.stack(off).max().detach())
