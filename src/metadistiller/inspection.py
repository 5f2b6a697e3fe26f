"""What a network is made of, what training adds to it, and that nothing of that is left in the end."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .config import Choice
from .errors import ConfigError
from .nn import Adapter, Backbone, LabelGenerator, MultiExit, build_network, discover, macs_of, stage_shapes


def inspect(
    model: Choice,
    *,
    num_classes: int = 100,
    size: tuple[int, int] | None = None,
    generator_width: int | Literal["mirror"] = "mirror",
) -> dict[str, Any]:
    """Counts of a network, its exits and its generator, without computing anything.

    Args:
        model: which network.
        num_classes: C >= 2.
        size: height and width of the images; None takes those that the network was made for.
        generator_width: see LabelGenerator.
    Returns: parameters, macs (multiply-accumulates of convolution and linear layers for one image), stages, exits,
        generator; of a network that is not ours also the module that each stage ends with, and `candidates`, those
        that one may end with. As `inspect --json` prints it.
    Raises: UnknownName, ConfigError, ShapeError.
    """
    if num_classes < 2:
        raise ConfigError(f"--classes is {num_classes}; a classifier has 2 or more")
    with torch.device("meta"):
        # Batch normalisation in training mode takes a slow way on this device.
        backbone = build_network(model, num_classes).eval()
        size = size or backbone.usual_size
        shapes = stage_shapes(backbone, size)
        student = MultiExit(backbone, size)
        generator = LabelGenerator(shapes, num_classes, width=generator_width, exit_design=backbone.exit_design)
        features = [torch.empty(1, *shape) for shape in shapes]
        images = torch.empty(1, 3, *size)
    return {
        "network": model.name,
        "classes": num_classes,
        "size": list(size),
        **_counts(backbone, images),
        "stages": [{**shape._asdict(), **end} for shape, end in zip(shapes, _ends(backbone), strict=True)],
        **_candidates(backbone, size),
        "exits": {"design": backbone.exit_design, **_counts(_Exits(student.exits), features[:-1])},
        "generator": {"width": generator_width, **_counts(generator, features)},
    }


def _ends(backbone: Backbone) -> list[dict[str, str]]:
    """The module that each stage of an adapted network ends with."""
    if isinstance(backbone, Adapter):
        return [{"module": stage.name} for stage in backbone.found]
    return [{} for _ in range(backbone.num_stages)]


def _candidates(backbone: Backbone, size: tuple[int, int]) -> dict[str, Any]:
    if not isinstance(backbone, Adapter):
        return {}
    found = discover(backbone.network, size=size, in_channels=backbone.in_channels)
    return {
        "candidates": [
            {"module": c.name, "channels": c.channels, "height": c.height, "width": c.width} for c in found.candidates
        ]
    }


class _Exits(nn.Module):
    def __init__(self, exits: nn.ModuleList) -> None:
        super().__init__()
        self.exits = exits

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [exit_(map_) for exit_, map_ in zip(self.exits, features, strict=True)]


def _counts(module: nn.Module, example: Tensor | list[Tensor]) -> dict[str, int]:
    # In evaluation mode batch normalisation takes a single image.
    module.eval()
    with torch.no_grad():
        macs = macs_of(lambda: module(example))
    return {"parameters": sum(parameter.numel() for parameter in module.parameters()), "macs": macs}
