"""What a network must give: its stages, and the head that turns the last of them into logits.

A family is one module with Options, NAMES (or a PATTERN) and `build(options, num_classes) -> Backbone` (see
metadistiller.lookup).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from ...errors import ShapeError
from ._phantom import on_phantom

ExitDesign: TypeAlias = Literal["bottleneck", "linear"]
# Of `Backbone.visited`: from k and what stage k hands on, to what goes on from there; None ends the pass.
Visit: TypeAlias = Callable[[int, Tensor], Tensor | None]


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

    @abstractmethod
    def visited(self, images: Tensor, visit: Visit) -> Tensor | None:
        """One pass that somebody may change at the end of every stage but the last.

        Args:
            images: (N, in_channels, H, W).
            visit: is given k, from 1 to K-1, and what stage k hands to the next, rows first; returns what goes on in
                its place, of which rows may be gone, or None to end the pass.
        Returns: logits (N', C) of the rows that came to the end; None where the pass was ended.
        """

    @abstractmethod
    def map_of(self, k: int, carried: Tensor, size: tuple[int, int]) -> Tensor:
        """F_k, (N, D_k, H_k, W_k), of what stage k hands to the next, for images of `size` = (height, width)."""

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
    def stage(self, k: int, x: Tensor) -> Tensor:
        """F_k from F_{k-1}, k from 1 to K; the first takes images."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Logits (N, C) from F_K."""

    def stages(self, images: Tensor, upto: int | None = None) -> list[Tensor]:
        x, maps = images, []
        for k in range(1, (self.num_stages if upto is None else upto) + 1):
            x = self.stage(k, x)
            maps.append(x)
        return maps

    def stages_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = self.stages(images)
        return maps, self.head(maps[-1])

    def visited(self, images: Tensor, visit: Visit) -> Tensor | None:
        x = images
        for k in range(1, self.num_stages):
            onward = visit(k, self.stage(k, x))
            if onward is None:
                return None
            x = onward
        return self.head(self.stage(self.num_stages, x))

    def map_of(self, k: int, carried: Tensor, size: tuple[int, int]) -> Tensor:
        return carried

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
