"""ShuffleNetV2 for 32-pixel images (3x3 stem, stride 8) and for ImageNet (stride-2 stem and pooling).

The units are torchvision's, and so are the names of the layers: a network with the ImageNet stem loads into
torchvision's ShuffleNetV2 of the same width, and the other way round.

Source: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018. The CIFAR form
is that of kuangliu/pytorch-cifar: the same layers, the stem at stride 1 and no pooling.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual

from ...config import require
from ._base import StagedNetwork, initialise

STEM, LAST = 24, 1024
UNITS = (4, 8, 4)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A ShuffleNetV2.

    Args:
        channels: of each of the three stages; the name fixes it.
        stem: cifar (3x3, stride 1, for small images) or imagenet (3x3, stride 2, then pooling).
    """

    channels: tuple[int, int, int]
    stem: Literal["cifar", "imagenet"] = "cifar"

    def __post_init__(self) -> None:
        require(self.stem in ("cifar", "imagenet"), "model.stem", self.stem, "take cifar or imagenet")


NAMES = {
    "shufflenet_v2_x0_5": {"channels": (48, 96, 192)},
    "shufflenet_v2": {"channels": (116, 232, 464)},
    "shufflenet_v2_x1_5": {"channels": (176, 352, 704)},
}


class ShuffleNetV2(StagedNetwork):
    """Three stages, each half the side of the one before; the 1x1 convolution to 1024 channels belongs to the head."""

    def __init__(self, options: Options, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        cifar = options.stem == "cifar"
        self.total_stride = 8 if cifar else 32
        self.conv1 = _convolution(3, STEM, 3, stride=1 if cifar else 2)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, stride=2, padding=1)
        channels = STEM
        for index, (units, out) in enumerate(zip(UNITS, options.channels, strict=True), start=2):
            stage = nn.Sequential(InvertedResidual(channels, out, 2))
            stage.extend([InvertedResidual(out, out, 1) for _ in range(units - 1)])
            self.add_module(f"stage{index}", stage)
            channels = out
        self.conv5 = _convolution(channels, LAST, 1)
        self.fc = nn.Linear(LAST, num_classes)
        initialise(self)

    @property
    def num_stages(self) -> int:
        return len(UNITS)

    def stage(self, k: int, x: Tensor) -> Tensor:
        if k == 1:
            x = self.maxpool(self.conv1(x))
        # Counted from 2: in the paper and in torchvision the stem is stage 1.
        features: Tensor = self.get_submodule(f"stage{k + 1}")(x)
        return features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv5(features).mean([2, 3]))
        return logits


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def build(options: Options, num_classes: int) -> ShuffleNetV2:
    return ShuffleNetV2(options, num_classes)
