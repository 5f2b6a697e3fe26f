"""Networks, exits and generator: their sizes to the last parameter, and the contract of a backbone over every name."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from metadistiller.config import Choice
from metadistiller.errors import ConfigError, ShapeError, UnknownName
from metadistiller.inspection import inspect
from metadistiller.lookup import find, table
from metadistiller.nn import Backbone, Exit, LabelGenerator, MultiExit, build_network, stage_shapes

FAMILY = "metadistiller.nn.backbones"
NAMES = tuple(table(FAMILY))
RESNETS = tuple(name for name in NAMES if name.startswith("resnet"))
IMAGENET = {"stem": "imagenet"}
# Every name as it stands, and both kinds of block behind the other stem.
CHOICES = [
    *(pytest.param(name, {}, id=name) for name in NAMES),
    *(pytest.param(name, IMAGENET, id=f"{name}-imagenet") for name in ("resnet10", "resnet50")),
]
TINY = [
    pytest.param("resnet10", {"width": 4}, id="resnet10"),
    pytest.param("resnet10", {"width": 4, **IMAGENET}, id="resnet10-imagenet"),
    pytest.param("wrn10_1", {}, id="wrn10_1"),
]


def network(name: str, options: dict[str, object] | None = None, num_classes: int = 10) -> Backbone:
    """Narrow where the name leaves a choice, with weights and statistics that are not the initial ones."""
    options = dict(options or {})
    if "width" not in find(FAMILY, "network", name).preset:
        options.setdefault("width", 4)
    torch.manual_seed(0)
    backbone = build_network(Choice(name=name, options=options), num_classes)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            part.running_mean = 0.1 * torch.randn(part.num_features)
            part.running_var = 0.5 + torch.rand(part.num_features)
    return backbone.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# How large they are


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet18", 11_220_132, 555_468_800),
        ("resnet34", 21_328_292, 1_159_448_576),
        ("resnet50", 23_705_252, 1_298_014_208),
        ("resnet101", 42_697_380, 2_510_168_064),
        ("resnet152", 58_341_028, 3_722_321_920),
        ("wrn16_1", 180_916, 26_663_168),
    ],
)
def test_sizes_at_32_pixels_and_100_classes(name: str, parameters: int, macs: int) -> None:
    found = inspect(Choice(name=name))
    assert (found["parameters"], found["macs"]) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("resnet18", 11_689_512, 1_814_073_344), ("resnet50", 25_557_032, 4_089_184_256)]
)
def test_sizes_at_224_pixels_and_1000_classes(name: str, parameters: int, macs: int) -> None:
    found = inspect(Choice(name=name, options=IMAGENET), num_classes=1000, size=(224, 224))
    assert (found["parameters"], found["macs"]) == (parameters, macs)


CIFAR_SIZE = {"num_classes": 100, "size": (32, 32)}
IMAGENET_SIZE = {"num_classes": 1000, "size": (224, 224)}


@pytest.mark.parametrize(
    ("model", "at", "parameters", "millions"),
    [
        (Choice(name="resnet18"), CIFAR_SIZE, 1_791_020, 40.0),
        (Choice(name="resnet50"), CIFAR_SIZE, 3_027_500, 93.9),
        (Choice(name="wrn16_1"), CIFAR_SIZE, 21_512, 0.9),
        (Choice(name="resnet18", options=IMAGENET), IMAGENET_SIZE, 3_176_120, 123.6),
        (Choice(name="resnet50", options=IMAGENET), IMAGENET_SIZE, 8_559_800, 291.9),
    ],
)
def test_sizes_of_the_exits(model: Choice, at: dict[str, object], parameters: int, millions: float) -> None:
    exits = inspect(model, **at)["exits"]  # type: ignore[arg-type]
    assert exits["parameters"] == parameters
    assert round(exits["macs"] / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("model", "at", "width", "parameters", "millions"),
    [
        (Choice(name="resnet18"), CIFAR_SIZE, "mirror", 3_775_340, 295.9),
        (Choice(name="resnet18"), CIFAR_SIZE, 64, 1_930_732, 93.7),
        (Choice(name="resnet18"), CIFAR_SIZE, 256, 3_849_004, 893.5),
        (Choice(name="resnet50"), CIFAR_SIZE, "mirror", 34_754_348, 4187.6),
        (Choice(name="resnet101"), CIFAR_SIZE, 64, 3_179_500, 127.2),
        (Choice(name="resnet50"), CIFAR_SIZE, 256, 5_650_732, 997.8),
        (Choice(name="wrn16_1"), CIFAR_SIZE, "mirror", 51_416, 11.6),
        (Choice(name="wrn16_1"), CIFAR_SIZE, 64, 104_008, 50.8),
        (Choice(name="wrn16_1"), CIFAR_SIZE, 256, 1_238_536, 768.0),
        (Choice(name="resnet18", options=IMAGENET), IMAGENET_SIZE, "mirror", 5_160_440, 907.1),
        (Choice(name="resnet50", options=IMAGENET), IMAGENET_SIZE, 128, 9_314_360, 979.2),
    ],
)
def test_sizes_of_the_generator(
    model: Choice, at: dict[str, object], width: object, parameters: int, millions: float
) -> None:
    generator = inspect(model, generator_width=width, **at)["generator"]  # type: ignore[arg-type]
    assert generator["parameters"] == parameters
    assert round(generator["macs"] / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("resnet50", [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]),
        ("wrn16_1", [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    ],
)
def test_shapes_of_the_stages(name: str, stages: list[tuple[int, int, int]]) -> None:
    found = inspect(Choice(name=name))["stages"]
    assert [(stage["channels"], stage["height"], stage["width"]) for stage in found] == stages


# What every backbone promises


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_stages(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    height, width = backbone.total_stride, 2 * backbone.total_stride
    maps = backbone.stages(noise(2, 3, height, width))
    assert len(maps) == backbone.num_stages
    assert [tuple(map_.shape[1:]) for map_ in maps] == stage_shapes(backbone, (height, width))
    assert tuple(maps[-1].shape[2:]) == (1, 2)
    for above, below in pairwise(maps):
        assert below.shape[2] <= above.shape[2]
        assert below.shape[3] <= above.shape[3]


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_forward_is_the_head_on_the_last_stage(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options, num_classes=7)
    images = noise(2, 3, backbone.total_stride, backbone.total_stride)
    with torch.no_grad():
        logits = backbone(images)
        assert logits.shape == (2, 7)
        assert logits.std() > 0
        assert torch.equal(backbone.head(backbone.stages(images)[-1]), logits)


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_later_stages_and_the_head_leave_a_map_as_it_is(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    images = noise(2, 3, backbone.total_stride, backbone.total_stride)
    with torch.no_grad():
        maps = backbone.stages(images)
        backbone.head(maps[-1])
        for k in range(1, backbone.num_stages + 1):
            first = backbone.stages(images, upto=k)
            assert len(first) == k
            for mine, whole in zip(first, maps, strict=False):
                assert torch.equal(mine, whole)


@pytest.mark.parametrize(("name", "options"), TINY)
def test_later_stages_do_not_run(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options).train()
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    maps = backbone.stages(noise(2, 3, 64, 64), upto=1)
    maps[0].sum().backward()
    still = [key for key, value in backbone.named_parameters() if value.grad is None]
    moved = {key for key, value in backbone.named_buffers() if not torch.equal(value, before[key])}
    with torch.no_grad():
        backbone.stages(noise(2, 3, 64, 64))
    reached = {key for key, value in backbone.named_buffers() if not torch.equal(value, before[key])}
    assert moved < reached
    assert "fc.weight" in still
    assert not {key.rpartition(".")[0] for key in still} & {key.rpartition(".")[0] for key in moved}


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_shapes_are_found_without_computing(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    stage_shapes(backbone, (64, 64))
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(("name", "options"), CHOICES)
@pytest.mark.parametrize("short", ["height", "width"])
def test_images_below_the_total_stride_are_refused(name: str, options: dict[str, object], short: str) -> None:
    with torch.device("meta"):
        backbone = build_network(Choice(name=name, options=options), 10)
    stride = backbone.total_stride
    size = (stride - 1, 2 * stride) if short == "height" else (2 * stride, stride - 1)
    with pytest.raises(ShapeError, match=rf"{size[0]}x{size[1]} pixels .* at least {stride} pixels a side"):
        stage_shapes(backbone, size)


# Initial weights


@pytest.mark.parametrize("name", ["resnet18", "wrn16_2"])
def test_initial_weights(name: str) -> None:
    torch.manual_seed(0)
    student = MultiExit(build_network(Choice(name=name), 10), (32, 32))
    generator = LabelGenerator(stage_shapes(student.backbone, (32, 32)), 10)
    for part in (*student.modules(), *generator.modules()):
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            spread = part.weight.std().item() / (2 / fan_out) ** 0.5
            # Four standard errors of a sample standard deviation.
            assert spread == pytest.approx(1, abs=4 / (2 * part.weight.numel()) ** 0.5)
            assert part.bias is None or not part.bias.any()
        if isinstance(part, nn.BatchNorm2d):
            assert (part.weight == 1).all()
            assert not part.bias.any()


@pytest.mark.parametrize(("name", "options"), TINY)
def test_initial_weights_follow_the_global_generator(name: str, options: dict[str, object]) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        backbone = build_network(Choice(name=name, options=options), 10)
        return torch.cat([value.flatten() for value in backbone.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


# ResNet


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_imagenet_stem_is_torchvision_bitwise(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(models, name)(weights=None).eval()
    ours = build_network(Choice(name=name, options=IMAGENET), 1000).eval()
    images = noise(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(ours(images), theirs(images))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", RESNETS)
def test_the_imagenet_stem_has_torchvisions_names_and_back(name: str) -> None:
    theirs = getattr(models, name, None)
    with torch.device("meta"):
        ours = build_network(Choice(name=name, options=IMAGENET), 1000)
        other = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]) if theirs is None else theirs(weights=None)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_width_scales_the_channels_of_every_stage(name: str, stem: str) -> None:
    def channels(width: int) -> list[int]:
        with torch.device("meta"):
            backbone = build_network(Choice(name=name, options={"stem": stem, "width": width}), 10)
        return [shape.channels for shape in stage_shapes(backbone, (64, 64))]

    narrow = channels(8)
    assert channels(24) == [3 * count for count in narrow]
    assert narrow == [narrow[0] * 2**k for k in range(4)]


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("stem", "tiny")])
def test_resnet_options_out_of_range(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{option} is {value!r}"):
        build_network(Choice(name="resnet18", options={option: value}), 10)


# WRN by any depth and width


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (10, 3), (22, 3), (28, 2)])
def test_any_depth_and_width_of_a_wrn(depth: int, width: int) -> None:
    with torch.device("meta"):
        backbone = build_network(Choice(name=f"wrn{depth}_{width}"), 10)
    # Depth counts the convolutions along the trunk: three by three, and the linear layer instead of the shortcuts.
    trunk = [part for part in backbone.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(trunk) == depth - 3
    assert [shape.channels for shape in stage_shapes(backbone, (32, 32))] == [16 * width, 32 * width, 64 * width]


def test_a_name_that_is_listed_and_its_pattern_agree() -> None:
    listed = find(FAMILY, "network", "wrn16_2")
    assert find(FAMILY, "network", "wrn22_2").configure({}).width == listed.configure({}).width
    assert listed.preset == {"depth": 16, "width": 2}
    assert find(FAMILY, "network", "wrn22_3").preset == {"depth": 22, "width": 3}


@pytest.mark.parametrize("depth", [4, 9, 11, 17, 18])
def test_a_depth_that_no_wrn_has(depth: int) -> None:
    with pytest.raises(ConfigError, match=rf"the depth of a WRN is {depth}; take 6 n \+ 4: 10, 16, 22"):
        build_network(Choice(name=f"wrn{depth}_1"), 10)


def test_a_width_that_no_wrn_has() -> None:
    with pytest.raises(ConfigError, match="the width of a WRN is 0; take 1 or more"):
        build_network(Choice(name="wrn16_0"), 10)


@pytest.mark.parametrize("name", ["wrn16", "wrn16_", "wrn_1", "wrn16_1x", "xwrn16_1"])
def test_what_is_almost_a_wrn(name: str) -> None:
    with pytest.raises(UnknownName, match="did you mean 'wrn"):
        build_network(Choice(name=name), 10)


# Exits and generator


@pytest.mark.parametrize(("name", "options"), TINY)
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (45, 37), (64, 32), (39, 81)])
def test_any_size_goes_through_everything(name: str, options: dict[str, object], size: tuple[int, int]) -> None:
    backbone = network(name, options, num_classes=7)
    shapes = stage_shapes(backbone, size)
    student = MultiExit(backbone, size)
    generator = LabelGenerator(shapes, 7)
    features, logits = student(noise(2, 3, *size))
    assert [tuple(map_.shape[1:]) for map_ in features] == shapes
    assert [tuple(output.shape) for output in logits] == [(2, 7)] * backbone.num_stages
    targets = generator(features)
    assert [tuple(target.shape) for target in targets] == [(2, 7)] * (backbone.num_stages - 1)
    assert all(output.isfinite().all() for output in (*logits, *targets))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (33, 45)])
def test_a_mirrored_map_has_the_shape_of_its_stage(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        shapes = stage_shapes(build_network(Choice(name=name), 10), size)
        generator = LabelGenerator(shapes, 10)
        maps = generator.maps([torch.empty(2, *shape) for shape in shapes])
    assert [tuple(map_.shape[1:]) for map_ in maps] == shapes[:-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 24])
def test_a_constant_width_is_the_width_of_every_map(name: str, width: int) -> None:
    with torch.device("meta"):
        shapes = stage_shapes(build_network(Choice(name=name), 10), (32, 32))
        generator = LabelGenerator(shapes, 10, width=width)
        maps = generator.maps([torch.empty(2, *shape) for shape in shapes])
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(width, shape.height, shape.width) for shape in shapes[:-1]]


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
    generator = LabelGenerator(stage_shapes(backbone, (64, 64)), 10).eval()
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
    exit_ = Exit(shapes[0], shapes[-1], 10, inner_width=inner)
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
