"""MobileNetV2 for 32-pixel images (stride 8, ReLU, projections) and for ImageNet (torchvision's layout).

Layers have torchvision's names: a network in its ImageNet form loads into torchvision's MobileNetV2, and the other way
round.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018. The CIFAR form is that of
kuangliu/pytorch-cifar: stem and second group at stride 1, ReLU instead of ReLU6, an expansion in the first block too,
and a 1x1 projection as shortcut wherever the stride is 1 and the widths differ. Its maps halve from stage to stage, as
sec. 3.3 of the paper has it, and it comes nearest to the paper's baseline (docs/method.md).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from ...config import require
from ._base import StagedNetwork, initialise

# Expansion, channels and blocks of each group, then the stride of its first block in the two forms.
GROUPS = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 1, 2),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)
# A stage ends with these groups: the last before each halving of the CIFAR form's maps.
LAST_OF_STAGE = (24, 32, 96, 320)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A MobileNetV2.

    Args:
        stem: cifar (stride 1, and 8 in all, for small images) or imagenet (torchvision's layout, stride 32 in all).
        width: factor on the channels of every layer, above 0; they are rounded to multiples of 8. 1 as published.
    """

    stem: Literal["cifar", "imagenet"] = "cifar"
    width: float = 1.0

    def __post_init__(self) -> None:
        require(self.stem in ("cifar", "imagenet"), "model.stem", self.stem, "take cifar or imagenet")
        require(
            0 < self.width < math.inf, "model.width", self.width, "take a factor above 0; 1 is the published network"
        )


NAMES: dict[str, dict[str, object]] = {"mobilenet_v2": {}}


class ProjectingResidual(nn.Module):
    """The CIFAR form's block: 1x1 expansion, 3x3 depthwise, 1x1 to `out` without ReLU; plus the input, projected where
    its width differs, at stride 1."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.conv = nn.Sequential(
            Conv2dNormActivation(channels, inner, 1),
            Conv2dNormActivation(inner, inner, 3, stride=stride, groups=inner),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1
        self.shortcut = nn.Sequential()
        if stride == 1 and channels != out:
            self.shortcut.extend([nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out + self.shortcut(x) if self.residual else out


class MobileNetV2(StagedNetwork):
    """Four stages; the 1x1 convolution to 1280 channels belongs to the head."""

    def __init__(self, options: Options, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        cifar = options.stem == "cifar"
        self.total_stride = 8 if cifar else 32
        block = ProjectingResidual if cifar else InvertedResidual
        activation = nn.ReLU if cifar else nn.ReLU6
        channels = _channels(32, options.width)
        self.features = nn.Sequential(
            Conv2dNormActivation(3, channels, 3, stride=1 if cifar else 2, activation_layer=activation)
        )
        # Where each stage begins, and the last one ends.
        self._cuts = [0]
        for expansion, published, depth, *strides in GROUPS:
            out, stride = _channels(published, options.width), strides[0 if cifar else 1]
            for step in range(depth):
                self.features.append(block(channels, out, stride if step == 0 else 1, expansion))
                channels = out
            if published in LAST_OF_STAGE:
                self._cuts.append(len(self.features))
        last = _channels(1280, max(1.0, options.width))
        self.features.append(Conv2dNormActivation(channels, last, 1, activation_layer=activation))
        self.classifier = nn.Sequential(nn.Identity() if cifar else nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialise(self)

    @property
    def num_stages(self) -> int:
        return 4

    def stage(self, k: int, x: Tensor) -> Tensor:
        features: Tensor = self.features[self._cuts[k - 1] : self._cuts[k]](x)
        return features

    def head(self, features: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(self.features[self._cuts[-1] :](features), 1)
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


def _channels(published: int, width: float) -> int:
    """The nearest multiple of 8, at least 8, and not more than a tenth below; the rule of the published code."""
    wanted = published * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def build(options: Options, num_classes: int) -> MobileNetV2:
    return MobileNetV2(options, num_classes)
