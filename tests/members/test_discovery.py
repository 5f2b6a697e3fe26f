"""The laws of finding stages, on networks of torchvision and timm that were not written for it."""

from collections.abc import Callable

import pytest
import timm
import torch
from timm.models import convnext, swin_transformer, vision_transformer
from torch import nn
from torchvision import models

from equations.oracle import Scene, double_backward, relative_error
from metadistiller import boost
from metadistiller.meta import meta_loss
from metadistiller.meta._forward_mode import plain_attention
from metadistiller.nn import LabelGenerator, MultiExit, adapt, stage_shapes
from metadistiller.nn.backbones._discovery import discover

from .nets import noise

Shape = tuple[int, int, int]


def made(name: str) -> nn.Module:
    """LIBRARY/NAME for ten classes; where the tensors are made, the caller says."""
    library, _, architecture = name.partition("/")
    if library == "timm":
        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=10)
    else:
        network = models.get_model(architecture, weights=None, num_classes=10)
    return network


# What is found


@pytest.mark.parametrize(
    ("name", "side", "layout", "stages"),
    [
        (
            "torchvision/resnet18",
            64,
            "maps",
            {"layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2)},
        ),
        (
            "torchvision/swin_t",
            224,
            "channels_last",
            {
                "features.1": (96, 56, 56),
                "features.3": (192, 28, 28),
                "features.5": (384, 14, 14),
                "permute": (768, 7, 7),
            },
        ),
        (
            "torchvision/squeezenet1_1",
            64,
            "maps",
            {
                "features.1": (64, 31, 31),
                "features.4": (128, 15, 15),
                "features.7": (256, 7, 7),
                "classifier.0": (512, 3, 3),
            },
        ),
        # A last map of one pixel, beside a shortcut that pools to it.
        (
            "timm/resnet10t",
            32,
            "maps",
            {"layer1": (64, 8, 8), "layer2": (128, 4, 4), "layer3": (256, 2, 2), "layer4": (512, 1, 1)},
        ),
        (
            "timm/vit_tiny_patch16_224",
            224,
            "tokens",
            {f"blocks.{k}": (192, 14, 14) for k in (2, 5, 8, 11)},
        ),
        (
            "timm/convmixer_768_32",
            224,
            "maps",
            {f"blocks.{k}": (768, 32, 32) for k in (7, 15, 23, 31)},
        ),
    ],
)
def test_stages_and_the_shapes_of_their_maps(name: str, side: int, layout: str, stages: dict[str, Shape]) -> None:
    with torch.device("meta"):
        network = made(name)
    found = discover(network, size=(side, side))
    shapes = {c.name: (c.channels, c.height, c.width) for c in found.candidates}
    assert {stage.name: shapes[stage.name] for stage in found.stages} == stages
    # torchvision's Swin turns its last map around before its head.
    assert {stage.layout for stage in found.stages[:-1]} == {layout}
    assert found.num_classes == 10


def test_a_class_token_is_no_part_of_the_map() -> None:
    with torch.device("meta"):
        found = discover(made("timm/vit_tiny_patch16_224"), size=(224, 224))
    assert {stage.prefix for stage in found.stages} == {1}


def test_a_map_that_is_written_over_is_copied() -> None:
    """The last ReLU of DenseNet works in place, after its last normalisation."""
    with torch.device("meta"):
        found = discover(made("torchvision/densenet121"), size=(64, 64))
    assert found.stages[-1].overwritten
    network = made("torchvision/densenet121").eval()
    with torch.no_grad():
        assert adapt(network, size=(64, 64)).stages(noise(2, 3, 64, 64))[-1].min() < 0


def test_logits_of_several_outputs_are_the_main_ones() -> None:
    with torch.device("meta"):
        network = models.googlenet(weights=None, num_classes=10, init_weights=False).train()
        found = discover(network, size=(64, 64))
    assert found.num_classes == 10
    assert not any("aux" in stage.name for stage in found.stages)


# What is read

TINY: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: vision_transformer.VisionTransformer(
        img_size=32,
        patch_size=8,
        num_classes=5,
        embed_dim=8,
        depth=4,
        num_heads=2,
        drop_rate=0.1,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.3,
    ),
    "swin": lambda: swin_transformer.SwinTransformer(
        img_size=32,
        patch_size=4,
        window_size=2,
        num_classes=5,
        embed_dim=12,
        depths=(1, 2, 1),
        num_heads=(1, 2, 2),
        drop_path_rate=0.2,
    ),
    "convnext": lambda: convnext.ConvNeXt(
        num_classes=5, depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), patch_size=2, drop_path_rate=0.2
    ),
}
LAYOUTS = {"vit": "tokens", "swin": "channels_last", "convnext": "maps"}


def tiny(name: str) -> nn.Module:
    """With weights as if trained: initial ones of layer scale and heads are next to nothing."""
    torch.manual_seed(0)
    network = TINY[name]().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_the_first_stages_alone_are_those_of_the_whole_pass_bitwise(name: str, training: bool) -> None:
    backbone = adapt(tiny(name), size=(32, 32)).train(training)
    assert {stage.layout for stage in backbone.found} == {LAYOUTS[name]}
    images = noise(4, 3, 32, 32).double()

    def seeded() -> torch.Tensor:
        torch.manual_seed(1)
        return images

    with torch.no_grad():
        maps, logits = backbone.stages_and_logits(seeded())
        assert torch.equal(logits, backbone.plain(seeded()))
        for upto in range(1, backbone.num_stages + 1):
            first = backbone.stages(seeded(), upto=upto)
            assert len(first) == upto
            assert all(torch.equal(a, b) for a, b in zip(first, maps, strict=False))
    assert [tuple(found.shape[1:]) for found in maps] == [tuple(shape) for shape in stage_shapes(backbone, (32, 32))]


@pytest.mark.parametrize("name", TINY)
def test_rows_may_leave_an_adapted_network_at_the_end_of_a_stage(name: str) -> None:
    backbone = adapt(tiny(name), size=(32, 32)).eval()
    images, kept = noise(5, 3, 32, 32).double(), torch.tensor([4, 0, 2])
    seen: list[torch.Tensor] = []

    def visit(k: int, carried: torch.Tensor) -> torch.Tensor:
        seen.append(backbone.map_of(k, carried, (32, 32)))
        return carried[kept] if k == 1 else carried

    with torch.no_grad():
        maps, logits = backbone.stages_and_logits(images)
        found = backbone.visited(images, visit)
        assert backbone.visited(images, lambda k, carried: None) is None
        # No hook stays behind.
        assert torch.equal(backbone.plain(images), logits)
    assert torch.equal(seen[0], maps[0])
    for map_, whole in zip(seen[1:], maps[1:], strict=False):
        torch.testing.assert_close(map_, whole[kept])
    torch.testing.assert_close(found, logits[kept])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_exits_are_in_the_precision_of_the_network(dtype: torch.dtype) -> None:
    boosted = boost(tiny("convnext").to(dtype), input_size=32, generator_width=4)
    loss = boosted.loss(noise(2, 3, 32, 32).to(dtype), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert {p.dtype for p in boosted.parameters()} == {dtype}


@pytest.mark.parametrize("derivative", ["forward_mode", "double_backward"])
@pytest.mark.parametrize("name", TINY)
def test_the_meta_gradient_is_that_of_double_backward(name: str, derivative: str) -> None:
    """In training mode, with the same draws of dropout and stochastic depth."""
    backbone = adapt(tiny(name), size=(32, 32))
    student = MultiExit(backbone, (32, 32)).double().train()
    generator = LabelGenerator(stage_shapes(backbone, (32, 32)), 5, width=6).double()
    batches = [(noise(6, 3, 32, 32).double() + k, torch.tensor([0, 1, 2, 3, 4, 0])) for k in range(2)]
    s = Scene(student, generator, batches[0], batches[1])
    steps = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 2.0}
    torch.manual_seed(1)
    # Fused attention can be differentiated once only.
    with plain_attention():
        expected = double_backward(s, **steps)
    torch.manual_seed(1)
    found = meta_loss(student, generator, *batches, **steps, derivative=derivative)
    assert relative_error(list(torch.autograd.grad(found.surrogate, s.theta_g())), expected) < 1e-8
