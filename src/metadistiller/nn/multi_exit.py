"""The student while it trains: a backbone with an early exit after each stage but the last."""

import torch
from torch import Tensor, nn

from .backbones import Backbone, floating_parameter, initialise, on_phantom, stage_shapes
from .exits import build_exit


class MultiExit(nn.Module):
    """S of the paper, theta_s: trunk and exits.

    Args:
        backbone: the network that ships in the end; kept as it is. It says of which design its exits are.
        size: height and width of the images.
        inner_width: of the exits, see build_exit.
    Raises: ShapeError, UnknownName, ConfigError.

    Attributes:
        inner_width: as given.
        early_parameters: names of the parameters that S_1..S_{K-1} depend on.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], *, inner_width: int | None = None) -> None:
        super().__init__()
        shapes = stage_shapes(backbone, size)
        self.backbone = backbone
        self.inner_width = inner_width
        self.exits = nn.ModuleList(
            build_exit(shape, shapes[-1], backbone.num_classes, design=backbone.exit_design, inner_width=inner_width)
            for shape in shapes[:-1]
        )
        initialise(self.exits)
        first = floating_parameter(backbone)
        if first is not None:
            # A network may be of another precision than torch's default, or on a GPU.
            self.exits.to(device=first.device, dtype=first.dtype)
        self.early_parameters = _early_parameters(self, size)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features F_1..F_K and logits S_1..S_K, shallow first."""
        features, logits = self.backbone.stages_and_logits(images)
        early = [exit_(map_) for exit_, map_ in zip(self.exits, features[:-1], strict=True)]
        return features, [*early, logits]

    def early_exits(self, images: Tensor) -> list[Tensor]:
        """Logits S_1..S_{K-1}; the last stage does not run."""
        features = self.backbone.stages(images, upto=len(self.exits))
        return [exit_(map_) for exit_, map_ in zip(self.exits, features, strict=True)]


def _early_parameters(student: MultiExit, size: tuple[int, int]) -> frozenset[str]:
    """Asked of autograd."""
    return on_phantom(student, _those_with_gradient, student.backbone.in_channels, size, gradient=True)


def _those_with_gradient(copied: MultiExit, images: Tensor) -> frozenset[str]:
    params = {name: p for name, p in copied.named_parameters() if p.requires_grad}
    total = torch.stack([logits.sum() for logits in copied.early_exits(images)]).sum()
    gradients = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(params, gradients, strict=True) if gradient is not None)
