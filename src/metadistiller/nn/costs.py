"""What a network costs, in multiply-accumulates of convolution, linear and attention layers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .backbones import Backbone, on_phantom
from .multi_exit import MultiExit


@dataclass(frozen=True)
class Costs:
    """Of one image.

    Attributes:
        trunk: K numbers; of the network up to the end of stage k, the last with its head.
        exits: K - 1 numbers; of each early exit by itself. Of a network without exits both speak of its one output.
    """

    trunk: tuple[int, ...]
    exits: tuple[int, ...]


def macs_of(run: Callable[[], object]) -> int:
    """Of all images that `run` puts through."""
    with FlopCounterMode(display=False) as counter:
        run()
    # The counter counts a multiply-accumulate as two operations.
    return int(counter.get_total_flops()) // 2


def plain_costs(network: Backbone, size: tuple[int, int]) -> Costs:
    """Of a network without exits, for images of `size` = (height, width)."""

    def count(copied: Backbone, images: Tensor) -> int:
        copied.eval()
        return macs_of(lambda: copied(images)) // len(images)

    return Costs((on_phantom(network, count, network.in_channels, size),), ())


def exit_costs(student: MultiExit, size: tuple[int, int]) -> Costs:
    """Of a student with exits, for images of `size` = (height, width)."""
    return on_phantom(student, _count, student.backbone.in_channels, size)


def _count(student: MultiExit, images: Tensor) -> Costs:
    # In evaluation mode batch normalisation takes what training would refuse.
    student.eval()
    trunk: list[int] = []
    with FlopCounterMode(display=False) as counter:

        def visit(k: int, carried: Tensor) -> Tensor:
            trunk.append(counter.get_total_flops())
            return carried

        student.backbone.visited(images, visit)
    trunk.append(counter.get_total_flops())
    maps = student.backbone.stages(images, upto=len(student.exits))
    exits = [macs_of(partial(exit_, map_)) for exit_, map_ in zip(student.exits, maps, strict=True)]
    # The counter counts a multiply-accumulate as two operations.
    return Costs(tuple(t // 2 // len(images) for t in trunk), tuple(e // len(images) for e in exits))
