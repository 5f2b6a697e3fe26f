"""VGG with batch normalisation for 32-pixel images (one linear layer) and for ImageNet (three).

Layers have torchvision's names: a network in its ImageNet form loads into torchvision's VGG of the same depth, and the
other way round.

Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015. Stages
and exits are those of sec. 4.2 of the paper: F_1, F_2, F_3 before the second, third and fourth pooling, each with an
average and a linear layer as its exit; F_4 before the fifth, so that every stage halves the side.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...config import require
from ._base import StagedNetwork, initialise


@dataclass(frozen=True, kw_only=True)
class Options:
    """A VGG.

    Args:
        convolutions: of each of the five groups between poolings; the name fixes it.
        stem: cifar (the map after the last pooling is averaged, one linear layer) or imagenet (averaged to 7x7, three
            linear layers with dropout); the convolutions are the same.
        width: channels of the first group, >= 1; 64 as published. The ImageNet form's linear layers have 64 times it.
    """

    convolutions: tuple[int, int, int, int, int]
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: int = 64

    def __post_init__(self) -> None:
        require(self.stem in ("cifar", "imagenet"), "model.stem", self.stem, "take cifar or imagenet")
        require(
            isinstance(self.width, int) and self.width >= 1, "model.width", self.width, "take a whole number from 1 on"
        )


NAMES = {
    "vgg11_bn": {"convolutions": (1, 1, 2, 2, 2)},
    "vgg13_bn": {"convolutions": (2, 2, 2, 2, 2)},
    "vgg16_bn": {"convolutions": (2, 2, 3, 3, 3)},
    "vgg19_bn": {"convolutions": (2, 2, 4, 4, 4)},
}


class VGG(StagedNetwork):
    """Four stages at strides 2, 4, 8, 16; the head pools once more."""

    exit_design = "linear"

    def __init__(self, options: Options, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.total_stride = 32
        width = options.width
        self.features = nn.Sequential()
        channels, pools = 3, []
        for depth, out in zip(options.convolutions, (width, 2 * width, 4 * width, 8 * width, 8 * width), strict=True):
            for _ in range(depth):
                self.features.extend(
                    [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                )
                channels = out
            pools.append(len(self.features))
            self.features.append(nn.MaxPool2d(2))
        # Where each stage begins, and the last one ends.
        self._cuts = [0, *pools[1:]]
        if options.stem == "cifar":
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            self.avgpool = nn.AdaptiveAvgPool2d(7)
            self.classifier = nn.Sequential(
                nn.Linear(49 * channels, 64 * width),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(64 * width, 64 * width),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(64 * width, num_classes),
            )
        initialise(self)

    @property
    def num_stages(self) -> int:
        return 4

    def stage(self, k: int, x: Tensor) -> Tensor:
        features: Tensor = self.features[self._cuts[k - 1] : self._cuts[k]](x)
        return features

    def head(self, features: Tensor) -> Tensor:
        pooled = self.avgpool(self.features[self._cuts[-1] :](features))
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


def build(options: Options, num_classes: int) -> VGG:
    return VGG(options, num_classes)
