"""Networks of torchvision, untouched: what ships loads into torchvision's own class under its own keys.

Built without pretrained weights, and with torchvision's initial ones. Stages end where those of our own networks do:
after layer1..layer4 of a ResNet, before poolings 2 to 5 of a VGG, after the groups of 24, 32, 96 and 320 channels of
MobileNetV2, after stage2..stage4 of ShuffleNetV2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from ._adapter import Adapter, Layout


@dataclass(frozen=True, kw_only=True)
class Options:
    """A network of torchvision.

    Args:
        architecture: torchvision's name of it; the name fixes it.
    """

    architecture: str


def _resnet(network: nn.Module) -> Layout:
    stages = (("conv1", "bn1", "relu", "maxpool", "layer1"), ("layer2",), ("layer3",), ("layer4",))
    return Layout(stages=stages, head=_resnet_head, total_stride=32)


def _resnet_head(network: nn.Module, features: Tensor) -> Tensor:
    logits: Tensor = network.get_submodule("fc")(torch.flatten(network.get_submodule("avgpool")(features), 1))
    return logits


def _vgg(network: nn.Module) -> Layout:
    layers = network.get_submodule("features").named_children()
    pools = [int(name) for name, layer in layers if isinstance(layer, nn.MaxPool2d)]
    return Layout(stages=_runs(0, *pools[1:]), head=_vgg_head, total_stride=32, exit_design="linear")


def _vgg_head(network: nn.Module, features: Tensor) -> Tensor:
    # The fifth pooling stands last among the features.
    *_, pool = network.get_submodule("features").children()
    logits: Tensor = network.get_submodule("classifier")(
        torch.flatten(network.get_submodule("avgpool")(pool(features)), 1)
    )
    return logits


def _mobilenet(network: nn.Module) -> Layout:
    return Layout(stages=_runs(0, 4, 7, 14, 18), head=_mobilenet_head, total_stride=32)


def _mobilenet_head(network: nn.Module, features: Tensor) -> Tensor:
    pooled = F.adaptive_avg_pool2d(network.get_submodule("features.18")(features), (1, 1))
    logits: Tensor = network.get_submodule("classifier")(torch.flatten(pooled, 1))
    return logits


def _shufflenet(network: nn.Module) -> Layout:
    stages = (("conv1", "maxpool", "stage2"), ("stage3",), ("stage4",))
    return Layout(stages=stages, head=_shufflenet_head, total_stride=32)


def _shufflenet_head(network: nn.Module, features: Tensor) -> Tensor:
    logits: Tensor = network.get_submodule("fc")(network.get_submodule("conv5")(features).mean([2, 3]))
    return logits


def _runs(*cuts: int) -> tuple[tuple[str, ...], ...]:
    """The layers of `features` between one cut and the next."""
    return tuple(tuple(f"features.{index}" for index in range(*ends)) for ends in pairwise(cuts))


LAYOUTS: dict[str, Callable[[nn.Module], Layout]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _resnet),
    **dict.fromkeys(("vgg16_bn", "vgg19", "vgg19_bn"), _vgg),
    "mobilenet_v2": _mobilenet,
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"), _shufflenet),
}
NAMES = {f"torchvision/{name}": {"architecture": name} for name in LAYOUTS}


def build(options: Options, num_classes: int) -> Adapter:
    network: nn.Module = models.get_model(options.architecture, weights=None, num_classes=num_classes)
    return Adapter(network, LAYOUTS[options.architecture](network), num_classes)
