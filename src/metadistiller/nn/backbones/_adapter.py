"""A network that is not ours as a Backbone: the same module, run stage by stage."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ._base import Backbone, ExitDesign


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the stages of a network end.

    Attributes:
        stages: of each stage the submodules that it runs, in order and one after the other, by the names that
            `named_modules` gives them. The first of a stage must not work in place: it would change the map before it.
        head: from the network and F_K to logits (N, C). It takes the network as an argument, not from a closure, so
            that a copy of the Backbone asks its own copy of the network.
        total_stride: see Backbone.
        exit_design: see Backbone.
    """

    stages: tuple[tuple[str, ...], ...]
    head: Callable[[nn.Module, Tensor], Tensor]
    total_stride: int
    exit_design: ExitDesign = "bottleneck"


class Adapter(Backbone):
    """A network and the layout of its stages; the network stays as it is, and is what ships.

    The state dict of an Adapter has the prefix "network."; that of `plain` has the network's own keys.

    Args:
        network: answers images (N, 3, H, W) with logits (N, C); its initial weights are kept.
        layout: its stages and its head, which together are its `forward`.
        num_classes: C.
    """

    def __init__(self, network: nn.Module, layout: Layout, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.total_stride = layout.total_stride
        self.exit_design = layout.exit_design
        self.network = network
        self._layout = layout

    @property
    def num_stages(self) -> int:
        return len(self._layout.stages)

    def stages(self, images: Tensor, upto: int | None = None) -> list[Tensor]:
        x = images
        maps = []
        for names in self._layout.stages[:upto]:
            for name in names:
                x = self.network.get_submodule(name)(x)
            maps.append(x)
        return maps

    def head(self, features: Tensor) -> Tensor:
        return self._layout.head(self.network, features)

    @property
    def plain(self) -> nn.Module:
        return self.network
