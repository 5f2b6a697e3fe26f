"""Wide residual network for 32-pixel images, WRN-depth-width, without dropout.

Source: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016. Stage outputs are the raw residual sums; the last
batch normalisation and ReLU belong to the head (docs/method.md).
"""

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import require
from ._base import StagedNetwork, initialise


@dataclass(frozen=True, kw_only=True)
class Options:
    """A wide residual network; the name wrnDEPTH_WIDTH fixes both.

    Args:
        depth: convolutions along the trunk, 6 n + 4 with n blocks a stage: 10, 16, 22, 28, 40 ...
        width: factor on the channels 16, 32, 64 of the three stages, >= 1.
    """

    depth: int
    width: int

    def __post_init__(self) -> None:
        require(
            # Up to where nobody has gone; a name from a file of anybody's must not take an hour to be built.
            10 <= self.depth <= 1000 and self.depth % 6 == 4,
            "the depth of a WRN",
            self.depth,
            "take 6 n + 4: 10, 16, 22, 28, 34, 40 ... up to 1000",
        )
        require(self.width >= 1, "the width of a WRN", self.width, "take 1 or more")


NAMES = {
    "wrn16_1": {"depth": 16, "width": 1},
    "wrn16_2": {"depth": 16, "width": 2},
    "wrn28_10": {"depth": 28, "width": 10},
    "wrn40_2": {"depth": 40, "width": 2},
}
PATTERN = re.compile(r"wrn(?P<depth>\d+)_(?P<width>\d+)")


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv twice, plus the input; where the shape changes, the shortcut starts after the first BN-ReLU."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        same = stride == 1 and channels == out
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(StagedNetwork):
    """Three stages at strides 1, 2, 4."""

    def __init__(self, options: Options, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.total_stride = 4
        blocks = (options.depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels = 16
        self.groups = nn.ModuleList()
        for index in range(3):
            out, stride = 16 * options.width * 2**index, 1 if index == 0 else 2
            group = nn.Sequential()
            for step in range(blocks):
                group.append(PreActivationBlock(channels, out, stride if step == 0 else 1))
                channels = out
            self.groups.append(group)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    @property
    def num_stages(self) -> int:
        return 3

    def stage(self, k: int, x: Tensor) -> Tensor:
        if k == 1:
            x = self.conv1(x)
        features: Tensor = self.groups[k - 1](x)
        return features

    def head(self, features: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(F.relu(self.bn(features)), 1)
        logits: Tensor = self.fc(torch.flatten(pooled, 1))
        return logits


def build(options: Options, num_classes: int) -> WideResNet:
    return WideResNet(options, num_classes)
