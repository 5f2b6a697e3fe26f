"""The label generator G, theta_g: fuses feature maps top-down into one soft target for each early exit (eq. 5)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import ExitDesign, StageShape, initialise
from .exits import build_exit


class LabelGenerator(nn.Module):
    """Generated map k = conv3x3(upsample(generated map k+1) + conv1x1(F_k)); the top map is conv1x1(F_K) alone.

    Each generated map but the top one goes through a head of the exits' design, with its own weights, to logits; T_k is
    their softmax. There is no normalisation or non-linearity between the maps unless asked for: eq. 5 has none.

    Two widths. "mirror" gives generated map k the shape of F_k, as Fig. 2 draws it and as sec. 3.3 needs where it
    weighs an L2 loss between the two. It is the default because it is the paper's most likely design, and for
    networks of basic blocks it costs about half of the network (0.53 x the MACs of ResNet18, 0.44 x WRN-16-1). A
    number d gives every map d channels, as feature pyramids do: take 64 to 128 for bottleneck networks, where mirror
    costs 3.2 x ResNet50 itself.

    A residual generator begins as self-distillation: T_k = softmax((s_k S_K + head_k) / tau), with every s_k 1 and the
    last layer of every head 0 at first. What it learns is how a target should differ from the final output.

    Args:
        shapes: of F_1..F_K.
        num_classes: C.
        width: "mirror", or channels d >= 1 of every generated map.
        exit_design: of the heads; the network's own (Backbone.exit_design).
        inner_width: of bottleneck heads, see build_exit.
        norm: of each generated map: none, or batch (batch normalisation).
        residual: whether the targets begin from the final output.
    Raises: UnknownName, ConfigError.

    Source: eq. 5, sec. 3.3, Fig. 2; docs/method.md, readings G6 and G7.
    """

    def __init__(
        self,
        shapes: Sequence[StageShape],
        num_classes: int,
        *,
        width: int | Literal["mirror"] = "mirror",
        exit_design: ExitDesign = "bottleneck",
        inner_width: int | None = None,
        norm: Literal["none", "batch"] = "none",
        residual: bool = False,
    ) -> None:
        super().__init__()
        channels = [shape.channels if width == "mirror" else int(width) for shape in shapes]
        # lateral[k] brings F_k to the width of the generated map above it, so that the two can be added.
        above = [*channels[1:], channels[-1]]
        self.lateral = nn.ModuleList(
            nn.Conv2d(shape.channels, wide, 1) for shape, wide in zip(shapes, above, strict=True)
        )
        self.refine = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, padding=1) for wide, narrow in zip(above, channels[:-1], strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(wide) if norm == "batch" else nn.Identity() for wide in channels)
        self.heads = nn.ModuleList(
            build_exit(
                shape._replace(channels=wide), shapes[-1], num_classes, design=exit_design, inner_width=inner_width
            )
            for shape, wide in zip(shapes[:-1], channels[:-1], strict=True)
        )
        initialise(self)
        self.scales: nn.Parameter | None = None
        if residual:
            self.scales = nn.Parameter(torch.ones(len(self.heads)))
            for head in self.heads:
                for value in head.get_submodule("fc").parameters():
                    nn.init.zeros_(value)

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Generated maps 1..K-1, shallow first, from F_1..F_K."""
        generated = self.norms[-1](self.lateral[-1](features[-1]))
        maps = []
        for k in reversed(range(len(self.refine))):
            lateral = self.lateral[k](features[k])
            # To the lateral's size, not "x2": the same where sides double, right where they do not (reading G7).
            up = F.interpolate(generated, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            generated = self.norms[k](self.refine[k](up + lateral))
            maps.append(generated)
        return maps[::-1]

    def reference(self, final: Tensor) -> Tensor:
        """Logits, (N, C), of what every target is at first, or nearly: the final output's of a residual generator, else
        those of a uniform distribution.

        Args:
            final: logits S_K, (N, C).
        """
        return torch.zeros_like(final) if self.scales is None else final

    def forward(self, features: Sequence[Tensor], final: Tensor | None = None) -> list[Tensor]:
        """Logits of T_1..T_{K-1}, shallow first, each (N, C); the caller detaches what it gives.

        Args:
            features: F_1..F_K.
            final: logits S_K, (N, C), which a residual generator must have; eq. 5 has no use for them.
        """
        made = [head(map_) for head, map_ in zip(self.heads, self.maps(features), strict=True)]
        if self.scales is None:
            return made
        assert final is not None, "the targets of a residual generator begin from the final output"
        # Not in bfloat16, where a small correction of a large logit is lost.
        wide = torch.promote_types(final.dtype, torch.float32)
        return [scale * final.to(wide) + logits.to(wide) for scale, logits in zip(self.scales, made, strict=True)]
