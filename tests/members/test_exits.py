"""Exits and generator on small members of every family."""

import pytest
import torch
from torch import nn

from metadistiller.errors import ConfigError, UnknownName
from metadistiller.nn import (
    Backbone,
    BottleneckExit,
    LabelGenerator,
    LinearExit,
    MultiExit,
    StageShape,
    build_exit,
    stage_shapes,
)

from .nets import TINY, network, noise


def generator_for(backbone: Backbone, shapes: list[StageShape], num_classes: int = 10) -> LabelGenerator:
    return LabelGenerator(shapes, num_classes, exit_design=backbone.exit_design)


@pytest.mark.parametrize(("name", "options"), TINY)
@pytest.mark.parametrize("size", [(33, 33), (45, 37), (64, 32)])
def test_any_size_goes_through_everything(name: str, options: dict[str, object], size: tuple[int, int]) -> None:
    backbone = network(name, options, num_classes=7)
    shapes = stage_shapes(backbone, size)
    student = MultiExit(backbone, size)
    generator = generator_for(backbone, shapes, num_classes=7)
    features, logits = student(noise(2, 3, *size))
    assert [tuple(map_.shape[1:]) for map_ in features] == shapes
    assert [tuple(output.shape) for output in logits] == [(2, 7)] * backbone.num_stages
    targets = generator(features)
    assert [tuple(target.shape) for target in targets] == [(2, 7)] * (backbone.num_stages - 1)
    assert all(output.isfinite().all() for output in (*logits, *targets))


@pytest.mark.parametrize(("name", "options"), TINY)
def test_the_student_is_the_backbone_and_its_exits(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    student = MultiExit(backbone, (64, 64)).eval()
    images = noise(2, 3, 64, 64)
    with torch.no_grad():
        features, logits = student(images)
        assert torch.equal(logits[-1], backbone(images))
        early = student.early_exits(images)
        assert len(early) == backbone.num_stages - 1
        for mine, whole, exit_, map_ in zip(early, logits, student.exits, features, strict=False):
            assert torch.equal(mine, whole)
            assert torch.equal(exit_(map_), whole)


@pytest.mark.parametrize(("name", "options"), TINY)
def test_a_generated_map_depends_on_its_own_stage_and_all_above(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    with torch.no_grad():
        features = backbone.stages(noise(2, 3, 64, 64))
    generator = generator_for(backbone, stage_shapes(backbone, (64, 64))).eval()
    for k in range(backbone.num_stages - 1):
        inputs = [map_.clone().requires_grad_() for map_ in features]
        generator(inputs)[k].square().sum().backward()
        reached = [map_.grad is not None and bool(map_.grad.any()) for map_ in inputs]
        assert reached == [False] * k + [True] * (backbone.num_stages - k)


def test_generated_maps_are_affine_in_the_features() -> None:
    # Eq. 5 has neither normalisation nor non-linearity between the maps.
    shapes = stage_shapes(network("resnet10"), (16, 16))
    generator = LabelGenerator(shapes, 10).double()
    with torch.no_grad():
        one, two, nothing = ([scale * noise(2, *shape).double() for shape in shapes] for scale in (1.0, 2.0, 0.0))
        maps = zip(generator.maps(one), generator.maps(two), generator.maps(nothing), strict=True)
        for first, second, base in maps:
            torch.testing.assert_close(second - base, 2 * (first - base))
            assert first.std() > 0


def test_eq_5_by_hand() -> None:
    shapes = stage_shapes(network("wrn10_1"), (8, 8))
    generator = LabelGenerator(shapes, 10, width=5)
    features = [noise(2, *shape) for shape in shapes]
    with torch.no_grad():
        top = generator.lateral[2](features[2])
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        middle = generator.refine[1](up(top) + generator.lateral[1](features[1]))
        bottom = generator.refine[0](up(middle) + generator.lateral[0](features[0]))
        for mine, expected in zip(generator.maps(features), (bottom, middle), strict=True):
            torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("inner", [None, 3])
def test_the_inner_width_of_an_exit(inner: int | None) -> None:
    shapes = stage_shapes(network("resnet10", {"width": 8}), (32, 32))
    exit_ = build_exit(shapes[0], shapes[-1], 10, design="bottleneck", inner_width=inner)
    widths = [part.out_channels for part in exit_.modules() if isinstance(part, nn.Conv2d)]
    assert widths == [inner or 16, inner or 16, 64]


def test_every_pixel_reaches_an_exit_where_sides_divide() -> None:
    backbone = network("resnet10")
    student = MultiExit(backbone, (32, 32)).eval()
    for exit_, shape in zip(student.exits, stage_shapes(backbone, (32, 32)), strict=False):
        map_ = noise(1, *shape).requires_grad_()
        exit_(map_).square().sum().backward()
        assert map_.grad is not None
        assert (map_.grad.abs().sum(1) > 0).float().mean() > 0.9


# The two designs


@pytest.mark.parametrize(("name", "options"), TINY)
def test_exits_and_heads_are_of_the_network_s_design(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    shapes = stage_shapes(backbone, (64, 64))
    wanted = LinearExit if "vgg" in name else BottleneckExit
    student, generator = MultiExit(backbone, (64, 64)), generator_for(backbone, shapes)
    for made in (student.exits, generator.heads):
        assert [type(part) for part in made] == [wanted] * (backbone.num_stages - 1)


def test_a_linear_exit_by_hand() -> None:
    exit_ = build_exit(StageShape(5, 4, 6), StageShape(9, 2, 3), 7, design="linear")
    features = noise(2, 5, 4, 6)
    with torch.no_grad():
        by_hand = features.mean((2, 3)) @ exit_.fc.weight.T + exit_.fc.bias  # type: ignore[union-attr,operator]
        torch.testing.assert_close(exit_(features), by_hand)


def test_a_linear_exit_has_no_inner_width() -> None:
    backbone = network("vgg11_bn")
    shapes = stage_shapes(backbone, (32, 32))
    told = r"method\.inner_width is 64; leave it out \(null\): the exits of this network are linear"
    with pytest.raises(ConfigError, match=told):
        MultiExit(backbone, (32, 32), inner_width=64)
    with pytest.raises(ConfigError, match=told):
        LabelGenerator(shapes, 10, exit_design="linear", inner_width=64)


def test_a_design_that_is_not_there() -> None:
    shape = StageShape(5, 4, 4)
    with pytest.raises(UnknownName, match="unknown exit design 'liner'; did you mean 'linear'"):
        build_exit(shape, shape, 10, design="liner")  # type: ignore[arg-type]
