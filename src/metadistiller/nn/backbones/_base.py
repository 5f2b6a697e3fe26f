"""What a network must give: its stages, and the head that turns the last of them into logits.

A family is one module with Options, NAMES (or a PATTERN) and `build(options, num_classes) -> Backbone` (see
metadistiller.lookup).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from ...errors import ShapeError
from ._phantom import on_phantom

ExitDesign: TypeAlias = Literal["bottleneck", "linear"]


class StageShape(NamedTuple):
    """One feature map: D_k channels, H_k rows, W_k columns."""

    channels: int
    height: int
    width: int


class Backbone(nn.Module, ABC):
    """An image classifier that returns its stages by name and needs no hook.

    Attributes:
        num_classes: C.
        total_stride: how many pixels of the image one pixel of the network's last map stands for, along a side; that
            map is F_K, or what a head that pools once more (VGG's) makes of it. Smaller images are refused.
        exit_design: of its early exits and of the generator's heads: bottleneck, or linear (average and linear layer,
            as sec. 4.2 has it for VGG).
        in_channels: of the images.
        usual_size: height and width of the images that it was made for.
    """

    num_classes: int
    total_stride: int
    exit_design: ExitDesign = "bottleneck"
    in_channels: int = 3
    usual_size: tuple[int, int] = (32, 32)

    @property
    @abstractmethod
    def num_stages(self) -> int:
        """K."""

    @abstractmethod
    def stages(self, images: Tensor, upto: int | None = None) -> list[Tensor]:
        """F_1..F_upto, shallow first; each (N, D_k, H_k, W_k). All K where `upto` is None; later stages do not run."""

    @abstractmethod
    def stages_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """F_1..F_K and logits (N, C), in one pass."""

    @property
    @abstractmethod
    def plain(self) -> nn.Module:
        """What ships: the network itself; an adapter gives the network that it holds, under that network's own keys."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C); images (N, 3, H, W)."""


class StagedNetwork(Backbone):
    """A network of ours: it runs stage by stage, and its head turns the last map into logits."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Logits (N, C) from F_K."""

    def stages_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = self.stages(images)
        return maps, self.head(maps[-1])

    @property
    def plain(self) -> nn.Module:
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(images)[-1])


def stage_shapes(backbone: Backbone, size: tuple[int, int]) -> list[StageShape]:
    """Shapes of F_1..F_K for images of `size` = (height, width), without computing anything.

    Raises: ShapeError where the images are smaller than the network's total stride, so that its last map would have
        nothing left to see, or where it takes images of another size only.
    """
    height, width = size
    if min(height, width) < backbone.total_stride:
        raise ShapeError(
            f"images of {height}x{width} pixels are too small for this network, whose last map has one value for "
            f"every {backbone.total_stride}x{backbone.total_stride} pixels; take images of at least "
            f"{backbone.total_stride} pixels a side, or a network that shrinks them less"
        )
    try:
        maps = on_phantom(backbone, backbone.__class__.stages, backbone.in_channels, size)
    # A stranger's network says in its own way that it takes images of one size only.
    except Exception as error:
        raise ShapeError(
            f"the network does not take images of {height}x{width} pixels ({' '.join(str(error).split())[:200]}); it "
            f"was made for {'x'.join(map(str, backbone.usual_size))}"
        ) from error
    return [StageShape(*map_.shape[1:]) for map_ in maps]


def run_between(layers: nn.Sequential, cuts: Sequence[int], images: Tensor, upto: int | None) -> list[Tensor]:
    """F_1..F_upto of a network that is one sequence of layers: stage k is layers cuts[k-1] to cuts[k] - 1."""
    x = images
    maps = []
    for begin, end in list(pairwise(cuts))[:upto]:
        x = layers[begin:end](x)
        maps.append(x)
    return maps


def initialise(module: nn.Module) -> None:
    """Initial weights of everything in `module`: the one place where they are decided.

    Convolutions: Kaiming normal, fan-out, gain of ReLU, biases 0. Batch normalisation: scale 1, shift 0. Linear layers:
    torch's default.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
