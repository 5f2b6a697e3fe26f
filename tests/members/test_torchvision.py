"""Networks that are not ours: torchvision's, untouched. And our ImageNet forms, which load into its classes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from metadistiller.config import Choice
from metadistiller.errors import UnknownName
from metadistiller.nn import Adapter, adapt, build_network, stage_shapes

from .nets import IMAGENET, NAMES, network, noise

ADAPTED = [name for name in NAMES if name.startswith("torchvision/")]
WANTED = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16_bn", "vgg19", "vgg19_bn", "mobilenet_v2"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"),
}
# Ours -> theirs.
OURS = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: name for name in ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")},
    "mobilenet_v2": "mobilenet_v2",
    "shufflenet_v2_x0_5": "shufflenet_v2_x0_5",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5": "shufflenet_v2_x1_5",
}


def theirs(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


# torchvision's networks as Backbones


def test_what_there_is() -> None:
    assert {name.removeprefix("torchvision/") for name in ADAPTED} == WANTED
    with pytest.raises(UnknownName, match="did you mean 'torchvision/resnet18'"):
        build_network(Choice(name="torchvision/resnet19"), 10)


@pytest.mark.parametrize("name", ADAPTED)
def test_what_ships_is_torchvisions_own_module(name: str) -> None:
    with torch.device("meta"):
        mine = build_network(Choice(name=name), 10).plain
        other = theirs(name.removeprefix("torchvision/"))
    assert type(mine) is type(other)
    assert repr(mine) == repr(other)
    assert shapes(mine) == shapes(other)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg19", "vgg19_bn", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_logits_are_torchvisions_bitwise(name: str) -> None:
    mine = network(f"torchvision/{name}")
    with torch.device("meta"):
        other = theirs(name)
    # What ships loads there, key by key; assigning spares a copy of VGG.
    other.load_state_dict(mine.plain.state_dict(), strict=True, assign=True)
    images = noise(2, 3, 64, 64)
    with torch.no_grad():
        logits = mine(images)
        assert logits.std() > 0
        assert torch.equal(logits, other.eval()(images))
        assert torch.equal(mine.stages_and_logits(images)[1], logits)
        assert torch.equal(mine(images), logits)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_initial_weights_are_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    mine = build_network(Choice(name=f"torchvision/{name}"), 10)
    torch.manual_seed(3)
    other = theirs(name).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in mine.plain.state_dict().items())


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        # The ReLUs before the second to fifth pooling.
        ("vgg19_bn", ["features.12", "features.25", "features.38", "features.51"]),
        ("vgg19", ["features.8", "features.17", "features.26", "features.35"]),
        ("vgg16_bn", ["features.12", "features.22", "features.32", "features.42"]),
        ("mobilenet_v2", ["features.3", "features.6", "features.13", "features.17"]),
        ("shufflenet_v2_x0_5", ["stage2", "stage3", "stage4"]),
    ],
)
def test_stages_are_what_these_modules_give(name: str, modules: list[str]) -> None:
    seen: list[Tensor] = []
    with torch.device("meta"):
        mine = build_network(Choice(name=f"torchvision/{name}"), 10).eval()
        for module in modules:
            mine.plain.get_submodule(module).register_forward_hook(lambda _, __, map_: seen.append(map_))
        maps = mine.stages(torch.empty(1, 3, 32, 32))
    assert len(seen) == len(maps)
    assert all(map_ is given for map_, given in zip(maps, seen, strict=True))


# Any network


class Small(nn.Module):
    """A user's network: two convolutions, the second before its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.two = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.activation(self.two(self.one(images)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def adapted(network: nn.Module) -> Adapter:
    return adapt(network.eval(), size=(8, 8))


def test_a_network_of_one_s_own_stays_as_it_is() -> None:
    module = Small().eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    images = noise(2, 3, 8, 8)
    with torch.no_grad():
        expected = module(images)
        backbone = adapted(module)
        assert torch.equal(backbone(images), expected)
    assert backbone.plain is module
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [tuple(shape) for shape in stage_shapes(backbone, (8, 8))] == [(4, 4, 4), (8, 2, 2)]
    assert set(backbone.state_dict()) == {f"network.{key}" for key in before}


def test_a_copy_of_an_adapter_asks_its_own_copy_of_the_network() -> None:
    backbone = adapted(Small())
    copied = copy.deepcopy(backbone)
    images = noise(2, 3, 8, 8)
    with torch.no_grad():
        before = copied(images)
        for parameter in backbone.parameters():
            parameter.zero_()
        assert torch.equal(copied(images), before)


# Our ImageNet forms


@pytest.mark.parametrize(("mine", "other"), OURS.items())
def test_the_imagenet_form_has_torchvisions_keys_and_shapes(mine: str, other: str) -> None:
    with torch.device("meta"):
        assert shapes(build_network(Choice(name=mine, options=IMAGENET), 1000)) == shapes(theirs(other, 1000))


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.3, 1.4])
def test_the_width_of_a_mobilenet_rounds_as_torchvisions(width: float) -> None:
    with torch.device("meta"):
        mine = build_network(Choice(name="mobilenet_v2", options={"width": width, **IMAGENET}), 10)
        assert shapes(mine) == shapes(theirs("mobilenet_v2", width_mult=width))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet18", {"width": 64}),
        ("resnet50", {"width": 64}),
        ("vgg11_bn", {"width": 64}),
        ("mobilenet_v2", {"width": 1.0}),
        ("shufflenet_v2_x0_5", {}),
    ],
)
def test_the_imagenet_form_is_torchvisions_bitwise(name: str, full: dict[str, object]) -> None:
    with torch.device("meta"):
        other = theirs(OURS[name])
    mine = network(name, {**IMAGENET, **full})
    images = noise(2, 3, 64, 64)
    other.load_state_dict(mine.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        assert torch.equal(mine(images), other.eval()(images))


@pytest.mark.parametrize("name", ["vgg11_bn", "mobilenet_v2"])
def test_dropout_of_the_imagenet_form_is_in_the_head(name: str) -> None:
    mine = network(name, IMAGENET).train()
    images = noise(4, 3, 64, 64)
    with torch.no_grad():
        one, two = mine.stages(images), mine.stages(images)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert not torch.equal(mine.head(one[-1]), mine.head(one[-1]))
