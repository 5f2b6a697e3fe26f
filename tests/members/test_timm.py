"""Networks of timm, untouched, by name."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from metadistiller import boost, load_network, train
from metadistiller.config import Choice, Config
from metadistiller.errors import ConfigError, ShapeError, StageError, UnknownName
from metadistiller.inspection import inspect
from metadistiller.nn import build_network, stage_shapes

from .nets import noise


def stages(name: str, **options: object) -> list[str]:
    with torch.device("meta"):
        found = inspect(Choice(name=f"timm/{name}", options=options), num_classes=10)
    return [stage["module"] for stage in found["stages"]]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("vit_tiny_patch16_224", ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]),
        ("swin_tiny_patch4_window7_224", ["layers.0", "layers.1", "layers.2", "layers.3"]),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2", "stages.3"]),
    ],
)
def test_stages_end_where_timm_says_that_features_are(name: str, modules: list[str]) -> None:
    assert stages(name) == modules


def test_stages_may_be_chosen() -> None:
    assert stages("resnet18", stages=("layer2", "layer4")) == ["layer2", "layer4"]
    assert stages("resnet18", stages=["layer3.0", "layer4"]) == ["layer3.0", "layer4"]


def test_what_ships_is_timm_s_own_network_bitwise() -> None:
    torch.manual_seed(0)
    mine = build_network(Choice(name="timm/resnet10t"), 10).eval()
    torch.manual_seed(0)
    other = timm.create_model("resnet10t", num_classes=10).eval()
    assert type(mine.plain) is type(other)
    assert set(mine.plain.state_dict()) == set(other.state_dict())
    images = noise(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(mine(images), other(images))
        maps, logits = mine.stages_and_logits(images)
        assert torch.equal(logits, other(images))
        assert all(torch.equal(a, b) for a, b in zip(mine.stages(images, upto=2), maps[:2], strict=True))
    assert not any(module._forward_hooks for module in mine.modules())


def test_arguments_reach_timm() -> None:
    options = {"arguments": {"img_size": 64, "drop_path_rate": 0.5}}
    network = build_network(Choice(name="timm/vit_tiny_patch16_224", options=options), 10)
    assert [shape.height for shape in stage_shapes(network, (64, 64))] == [4, 4, 4, 4]
    assert any(getattr(module, "drop_prob", 0.0) == 0.5 for module in network.modules())


def test_a_run_trains_and_ships_a_network_of_timm(tiny_config: Config, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(tiny_config, model=Choice(name="timm/resnet10t"), epochs=1)
    trained = train(config, tmp_path / "run", quiet=True)
    network = load_network(trained.folder / "model.safetensors").network
    other: nn.Module = timm.create_model("resnet10t", num_classes=10)
    other.load_state_dict(network.plain.state_dict(), strict=True)
    assert trained.result["network"] == "timm/resnet10t"


@pytest.mark.parametrize(
    ("name", "options", "error", "told"),
    [
        ("timm/rsnet18", {}, UnknownName, "did you mean 'timm/resnet18'"),
        (
            "timm/resnet18",
            {"stages": ("layer2", "layer5")},
            UnknownName,
            "unknown module 'layer5'; did you mean 'layer",
        ),
        ("timm/resnet18", {"stages": ("layer4", "layer2")}, StageError, "the network runs them as layer2, layer4"),
        ("timm/resnet18", {"stages": ("layer4",)}, StageError, "1 stage found in ResNet"),
        ("timm/resnet18", {"stages": ("layer2", "fc")}, StageError, "module 'fc' gives no feature map; take of: "),
        ("timm/resnet18", {"arguments": {"colour": 1}}, ConfigError, "with model.arguments .*colour"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, options: dict[str, object], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        build_network(Choice(name=name, options=options), 10)


def test_images_of_another_size_than_the_network_takes_are_refused() -> None:
    network = build_network(Choice(name="timm/vit_tiny_patch16_224"), 10)
    with pytest.raises(ShapeError, match=r"does not take images of 64x64 pixels .*made for 224x224"):
        stage_shapes(network, (64, 64))


def test_a_network_is_boosted_for_the_images_that_it_says_it_takes() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64)
    assert boost(model).exits(noise(2, 3, 64, 64))[-1].shape == (2, 10)
