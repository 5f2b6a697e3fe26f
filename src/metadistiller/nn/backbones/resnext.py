"""ResNeXt-29 for 32-pixel images (3x3 stem) and for larger ones (7x7 stem and pooling).

A ResNet of three stages whose bottlenecks have groups of 64, 128, 256 channels.

Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017: their ResNeXt-29, 2x64d and
8x64d, with a 3x3 stem (one public code has 1x1 there, which is 1,536 parameters less).
"""

from dataclasses import dataclass
from typing import Literal

from torchvision.models.resnet import Bottleneck

from ...config import require
from ._base import Backbone
from .resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class Options:
    """A ResNeXt.

    Args:
        blocks: residual blocks of each of the three stages; the name fixes it.
        cardinality: groups of the 3x3 convolution in every block; the name fixes it.
        stem: cifar (3x3, stride 1, for small images) or imagenet (7x7, stride 2, then pooling).
        width: channels of the stem and of each group in the first stage, >= 1; 64 as published.
    """

    blocks: tuple[int, int, int]
    cardinality: int
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: int = 64

    def __post_init__(self) -> None:
        require(self.stem in ("cifar", "imagenet"), "model.stem", self.stem, "take cifar or imagenet")
        require(
            isinstance(self.width, int) and self.width >= 1, "model.width", self.width, "take a whole number from 1 on"
        )


NAMES = {
    "resnext29_2": {"blocks": (3, 3, 3), "cardinality": 2},
    "resnext29_8": {"blocks": (3, 3, 3), "cardinality": 8},
}


def build(options: Options, num_classes: int) -> Backbone:
    return ResNet(
        num_classes,
        block=Bottleneck,
        blocks=options.blocks,
        stem=options.stem,
        width=options.width,
        groups=options.cardinality,
    )
