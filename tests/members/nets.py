"""Networks that look trained and cost little to make, of every family."""

from collections.abc import Mapping
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from metadistiller.config import Choice
from metadistiller.lookup import find, table
from metadistiller.nn import Backbone, build_network

FAMILY = "metadistiller.nn.backbones"
NAMES = tuple(table(FAMILY))
IMAGENET = {"stem": "imagenet"}
# One small member of each family, of both stems where they differ in more than the first layers, and an adapted one.
TINY = [
    pytest.param("resnet10", {"width": 4}, id="resnet10"),
    pytest.param("resnet10", {"width": 4, **IMAGENET}, id="resnet10-imagenet"),
    pytest.param("wrn10_1", {}, id="wrn10_1"),
    pytest.param("resnext29_2", {"width": 4}, id="resnext29_2"),
    pytest.param("vgg11_bn", {"width": 4}, id="vgg11_bn"),
    pytest.param("vgg11_bn", {"width": 4, **IMAGENET}, id="vgg11_bn-imagenet"),
    pytest.param("mobilenet_v2", {"width": 0.1}, id="mobilenet_v2"),
    pytest.param("mobilenet_v2", {"width": 0.1, **IMAGENET}, id="mobilenet_v2-imagenet"),
    pytest.param("shufflenet_v2_x0_5", {}, id="shufflenet_v2_x0_5"),
    pytest.param("torchvision/shufflenet_v2_x0_5", {}, id="torchvision/shufflenet_v2_x0_5"),
]


def network(name: str, options: Mapping[str, object] | None = None, num_classes: int = 10) -> Backbone:
    """Narrow where the name leaves a choice, with weights and statistics that are not the initial ones."""
    options = dict(options or {})
    member = find(FAMILY, "network", name)
    defaults = {field.name: field.default for field in fields(member.options)}
    if "width" in defaults and "width" not in member.preset:
        # A number of channels, or a factor on them.
        options.setdefault("width", 4 if isinstance(defaults["width"], int) else 0.1)
    choice = Choice(name=name, options=options)
    with torch.device("meta"):
        backbone = build_network(choice, num_classes)
    torch.manual_seed(0)
    if _all_drawn_below(backbone):
        # Initial weights of the largest networks take seconds.
        backbone.to_empty(device="cpu")
    else:
        backbone = build_network(choice, num_classes)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            part.running_mean = 0.1 * torch.randn(part.num_features)
            part.running_var = 0.5 + torch.rand(part.num_features)
        elif isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.1, 0.1)
    return backbone.eval()


def _all_drawn_below(backbone: nn.Module) -> bool:
    owners = [part for part in backbone.modules() if [*part.parameters(recurse=False), *part.buffers(recurse=False)]]
    return all(isinstance(part, nn.BatchNorm2d | nn.Conv2d | nn.Linear) for part in owners)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
