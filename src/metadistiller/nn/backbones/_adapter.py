"""A network that is not ours as a Backbone: the same module, with its stages read while it runs."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...errors import ConfigError
from ._base import Backbone, ExitDesign, Visit
from ._discovery import discover
from ._taps import Stage, Taps, logits_of


class Adapter(Backbone):
    """A network and where its stages end; the network stays as it is, and is what ships.

    The state dict of an Adapter has the prefix "network."; that of `plain` has the network's own keys.

    Args:
        network: answers images (N, in_channels, H, W) with logits (N, C); its weights are kept.
        found: where its stages end, in the order in which it runs them; the last is F_K.
        num_classes: C.
        total_stride, usual_size, exit_design, in_channels: see Backbone.
    """

    def __init__(
        self,
        network: nn.Module,
        found: Sequence[Stage],
        num_classes: int,
        *,
        total_stride: int,
        usual_size: tuple[int, int],
        exit_design: ExitDesign = "bottleneck",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.total_stride = total_stride
        self.usual_size = usual_size
        self.exit_design = exit_design
        self.in_channels = in_channels
        self.network = network
        self.found = tuple(found)
        self._taps = Taps(found)

    @property
    def num_stages(self) -> int:
        return len(self.found)

    def stages(self, images: Tensor, upto: int | None = None) -> list[Tensor]:
        return self._taps.upto(self.network, images, upto)

    def stages_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        return self._taps.all(self.network, images)

    def visited(self, images: Tensor, visit: Visit) -> Tensor | None:
        return self._taps.visited(self.network, images, visit)

    def map_of(self, k: int, carried: Tensor, size: tuple[int, int]) -> Tensor:
        return self.found[k - 1].map_of(carried, size)

    def hold_taps(self) -> None:
        """Let the hooks that read the stages stay until `release_taps`, for a student that is compiled."""
        self._taps.hold(self.network)

    def release_taps(self) -> None:
        self._taps.release()

    @property
    def plain(self) -> nn.Module:
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network(images))


def image_size(network: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a network was made for: what timm's say of themselves, else
    (3, 224, 224).
    """
    channels, height, width = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    fixed = getattr(getattr(network, "patch_embed", None), "img_size", None)
    if isinstance(fixed, tuple):
        height, width = fixed
    return channels, height, width


def adapt(
    network: nn.Module,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    stages: Sequence[str] | None = None,
    exit_design: ExitDesign = "bottleneck",
) -> Adapter:
    """Any image classifier as a Backbone.

    Args:
        network: see Adapter. It is copied without its weights and run once; itself it is not touched.
        num_classes: C, checked against what the network gives; None takes that.
        size: height and width of the images that its stages are looked for with.
        stages: names of the modules whose outputs are F_1..F_K; None finds them, see discover.
    Raises: StageError, ConfigError, UnknownName.
    """
    found = discover(network, size=size, in_channels=in_channels, names=stages)
    if num_classes is not None and num_classes != found.num_classes:
        raise ConfigError(
            f"num_classes is {num_classes}, but the network gives {found.num_classes} logits; build it for "
            f"{num_classes} classes, or leave num_classes out"
        )
    return Adapter(
        network,
        found.stages,
        found.num_classes,
        total_stride=found.total_stride,
        usual_size=size,
        exit_design=exit_design,
        in_channels=in_channels,
    )
