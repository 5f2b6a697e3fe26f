"""ResNet for 32-pixel images (3x3 stem) and for ImageNet (7x7 stem and pooling).

The blocks are torchvision's, and so are the names of the layers: a network with the ImageNet stem loads into
torchvision's ResNet of the same depth, and the other way round.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; the 3x3 stem without pooling is the one that
every public CIFAR-100 code uses (docs/method.md). The stride of a bottleneck sits on its 3x3 convolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ...config import require
from ._base import StagedNetwork, initialise


@dataclass(frozen=True, kw_only=True)
class Options:
    """A ResNet.

    Args:
        blocks: residual blocks of each of the four stages; the name fixes it.
        bottleneck: three-convolution blocks of four-fold output width; the name fixes it.
        stem: cifar (3x3, stride 1, for small images) or imagenet (7x7, stride 2, then pooling).
        width: channels of the stem and of the first stage's blocks, >= 1; 64 in the paper.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: int = 64

    def __post_init__(self) -> None:
        require(self.stem in ("cifar", "imagenet"), "model.stem", self.stem, "take cifar or imagenet")
        require(
            isinstance(self.width, int) and self.width >= 1, "model.width", self.width, "take a whole number from 1 on"
        )


NAMES = {
    "resnet10": {"blocks": (1, 1, 1, 1), "bottleneck": False},
    "resnet18": {"blocks": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"blocks": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
    "resnet101": {"blocks": (3, 4, 23, 3), "bottleneck": True},
    "resnet152": {"blocks": (3, 8, 36, 3), "bottleneck": True},
}


class ResNet(StagedNetwork):
    """A stem and stages of residual blocks, each stage half the side of the one before.

    Args:
        num_classes: C.
        block: torchvision's basic block or bottleneck.
        blocks: how many of them in each stage.
        stem, width: see Options.
        groups: of the 3x3 convolution of a bottleneck, each `width` wide in the first stage (ResNeXt); 1 for a ResNet.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        stem: str,
        width: int,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._num_stages = len(blocks)
        self.total_stride = 2 ** (len(blocks) - 1)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        else:
            self.total_stride *= 4
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for index, depth in enumerate(blocks):
            planes, stride = width * 2**index, 1 if index == 0 else 2
            layer = nn.Sequential()
            for step in range(depth):
                layer.append(_block(block, channels, planes, stride if step == 0 else 1, groups))
                channels = planes * block.expansion
            self.add_module(f"layer{index + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    @property
    def num_stages(self) -> int:
        return self._num_stages

    def stage(self, k: int, x: Tensor) -> Tensor:
        if k == 1:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.get_submodule(f"layer{k}")(x)
        return features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def _block(
    block: type[BasicBlock | Bottleneck], channels: int, planes: int, stride: int, groups: int
) -> BasicBlock | Bottleneck:
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    return block(channels, planes, stride, shortcut, groups)


def build(options: Options, num_classes: int) -> ResNet:
    return ResNet(
        num_classes,
        block=Bottleneck if options.bottleneck else BasicBlock,
        blocks=options.blocks,
        stem=options.stem,
        width=options.width,
    )
