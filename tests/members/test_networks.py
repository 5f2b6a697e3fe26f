"""The contract of a network, over every name, and the options of each family."""

import copy
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from metadistiller.config import Choice
from metadistiller.errors import ConfigError, ShapeError, UnknownName
from metadistiller.lookup import find
from metadistiller.nn import Backbone, LabelGenerator, MultiExit, StageShape, build_network, stage_shapes
from metadistiller.nn.backbones.mobilenet import ProjectingResidual

from .nets import FAMILY, IMAGENET, NAMES, TINY, network, noise

# Every name as it stands, and every kind of block behind the other stem.
CHOICES = [
    *(pytest.param((name, {}), id=name) for name in NAMES),
    *(
        pytest.param((name, IMAGENET), id=f"{name}-imagenet")
        for name in ("resnet10", "resnet50", "resnext29_2", "vgg11_bn", "mobilenet_v2", "shufflenet_v2_x0_5")
    ),
]


@pytest.fixture(scope="module", params=CHOICES)
def whole(request: pytest.FixtureRequest) -> Backbone:
    """Made once for all tests that use it, because some are large."""
    name, options = request.param
    return network(name, options, num_classes=7)


@pytest.fixture
def backbone(whole: Backbone) -> Iterator[Backbone]:
    """One of each name, in evaluation mode; no test may leave a trace in it."""
    before = {key: value.clone() for key, value in whole.named_buffers()}
    yield whole
    assert not whole.training
    assert all(torch.equal(value, before[key]) for key, value in whole.named_buffers())
    assert all(value.grad is None for value in whole.parameters())


# What every backbone promises


def test_stages(backbone: Backbone) -> None:
    height, width = backbone.total_stride, 2 * backbone.total_stride
    with torch.no_grad():
        maps = backbone.stages(noise(2, 3, height, width))
    assert len(maps) == backbone.num_stages
    assert [tuple(map_.shape[1:]) for map_ in maps] == stage_shapes(backbone, (height, width))
    # Of the last map; VGG's is behind the pooling of its head.
    assert tuple(maps[-1].shape[2:]) in ((1, 2), (2, 4))
    for above, below in pairwise(maps):
        assert below.shape[2] <= above.shape[2]
        assert below.shape[3] <= above.shape[3]


def test_forward_is_the_head_on_the_last_stage(backbone: Backbone) -> None:
    images = noise(2, 3, backbone.total_stride, backbone.total_stride)
    with torch.no_grad():
        logits = backbone(images)
        assert logits.shape == (2, 7)
        assert logits.std() > 0
        assert torch.equal(backbone.stages_and_logits(images)[1], logits)


def test_what_ships_answers_alike(backbone: Backbone) -> None:
    images = noise(2, 3, backbone.total_stride, backbone.total_stride)
    with torch.no_grad():
        assert torch.equal(backbone.plain(images), backbone(images))
    assert [id(value) for value in backbone.plain.parameters()] == [id(value) for value in backbone.parameters()]
    assert len(backbone.plain.state_dict()) == len(backbone.state_dict())


def test_later_stages_and_the_head_leave_a_map_as_it_is(backbone: Backbone) -> None:
    images = noise(2, 3, backbone.total_stride, backbone.total_stride)
    with torch.no_grad():
        maps, _ = backbone.stages_and_logits(images)
        for k in range(1, backbone.num_stages + 1):
            first = backbone.stages(images, upto=k)
            assert len(first) == k
            for mine, whole in zip(first, maps, strict=False):
                assert torch.equal(mine, whole)


def test_a_visited_pass_is_the_network_s_own_for_the_rows_that_go_on(backbone: Backbone) -> None:
    images, kept = noise(5, 3, 64, 64), torch.tensor([4, 0, 2])
    seen: list[tuple[int, Tensor]] = []

    def visit(k: int, carried: Tensor) -> Tensor:
        seen.append((k, backbone.map_of(k, carried, (64, 64))))
        return carried[kept] if k == 1 else carried

    with torch.no_grad():
        maps, logits = backbone.stages_and_logits(images)
        found = backbone.visited(images, visit)
    assert [k for k, _ in seen] == list(range(1, backbone.num_stages))
    assert torch.equal(seen[0][1], maps[0])
    assert found is not None
    # Fewer images at once are summed in another order.
    for part, whole in zip([*(map_ for _, map_ in seen[1:]), found], [*maps[1:-1], logits], strict=True):
        assert (part - whole[kept]).abs().max() <= 1e-4 * whole.abs().max()


def test_a_visited_pass_ends_where_nothing_goes_on(backbone: Backbone) -> None:
    seen: list[int] = []

    def visit(k: int, carried: Tensor) -> Tensor | None:
        seen.append(k)
        return carried if k < backbone.num_stages - 1 else None

    with torch.no_grad():
        assert backbone.visited(noise(2, 3, 64, 64), visit) is None
    assert seen == list(range(1, backbone.num_stages))


@pytest.mark.parametrize("short", ["height", "width"])
def test_images_below_the_total_stride_are_refused(backbone: Backbone, short: str) -> None:
    stride = backbone.total_stride
    size = (stride - 1, 2 * stride) if short == "height" else (2 * stride, stride - 1)
    with pytest.raises(ShapeError, match=rf"{size[0]}x{size[1]} pixels .* at least {stride} pixels a side"):
        stage_shapes(backbone, size)


def test_generated_maps_have_the_sides_of_the_stages(backbone: Backbone) -> None:
    with torch.no_grad():
        shapes = [StageShape(*map_.shape[1:]) for map_ in backbone.stages(noise(1, 3, 33, 45))]
    mirrored, narrow = shapes[:-1], [shape._replace(channels=24) for shape in shapes[:-1]]
    for width, wanted in (("mirror", mirrored), (24, narrow)):
        with torch.device("meta"):
            generator = LabelGenerator(shapes, 10, width=width, exit_design=backbone.exit_design)  # type: ignore[arg-type]
            maps = generator.maps([torch.empty(2, *shape) for shape in shapes])
        assert [tuple(map_.shape[1:]) for map_ in maps] == wanted


@pytest.mark.parametrize(("name", "options"), TINY)
def test_shapes_are_found_without_computing(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    stage_shapes(backbone, (64, 64))
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


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
    # The linear layer of the head comes last.
    assert still[-1] == [key for key, _ in backbone.named_parameters()][-1]
    assert not {key.rpartition(".")[0] for key in still} & {key.rpartition(".")[0] for key in moved}


@pytest.mark.parametrize(("name", "options"), TINY)
def test_every_parameter_reaches_the_logits(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    backbone(noise(2, 3, 64, 64)).square().sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize(("name", "options"), TINY)
def test_a_copy_asks_its_own_weights(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options)
    copied = copy.deepcopy(backbone)
    images = noise(2, 3, 32, 32)
    with torch.no_grad():
        before = copied(images)
        for parameter in backbone.parameters():
            parameter.zero_()
        assert torch.equal(copied(images), before)
        assert not torch.equal(backbone(images), before)


@pytest.mark.parametrize(("name", "options"), TINY)
def test_the_memory_format_changes_nothing_but_rounding(name: str, options: dict[str, object]) -> None:
    backbone = network(name, options).double()
    images = noise(2, 3, 64, 64).double()
    with torch.no_grad():
        plain = backbone.stages(images)
        backbone.to(memory_format=torch.channels_last)
        for mine, theirs in zip(
            backbone.stages(images.contiguous(memory_format=torch.channels_last)), plain, strict=True
        ):
            torch.testing.assert_close(mine, theirs)


# Initial weights


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("wrn16_2", {}),
        ("resnext29_2", {"width": 16}),
        ("vgg11_bn", {"width": 16}),
        ("mobilenet_v2", {"width": 0.5}),
        ("shufflenet_v2_x0_5", {}),
    ],
)
def test_initial_weights(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    student = MultiExit(build_network(Choice(name=name, options=options), 10), (32, 32))
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


# Options of a family


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("resnet18", (1, 2, 4, 8)),
        ("resnet50", (4, 8, 16, 32)),
        ("resnext29_2", (4, 8, 16)),
        ("vgg16_bn", (2, 4, 8, 8)),
    ],
)
@pytest.mark.parametrize(("stem", "width"), [("cifar", 8), ("imagenet", 24)])
def test_width_is_the_channels_of_the_first_layer(name: str, factors: tuple[int, ...], stem: str, width: int) -> None:
    with torch.device("meta"):
        backbone = build_network(Choice(name=name, options={"stem": stem, "width": width}), 10)
    first = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
    assert first.out_channels == width
    assert [shape.channels for shape in stage_shapes(backbone, (64, 64))] == [width * factor for factor in factors]


@pytest.mark.parametrize(
    ("name", "cardinality"), [("resnext29_2", 2), ("resnext29_8", 8), ("resnet50", 1), ("resnet18", 1)]
)
def test_cardinality_is_the_groups_of_every_3x3_convolution_but_the_stem(name: str, cardinality: int) -> None:
    with torch.device("meta"):
        backbone = build_network(Choice(name=name), 10)
    _, *found = [part for part in backbone.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert {part.groups for part in found} == {cardinality}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "width", value) for name in ("resnet18", "resnext29_2", "vgg11_bn") for value in (0, 1.5)),
        *(("mobilenet_v2", "width", value) for value in (0, -1.0, float("inf"))),
        *((name, "stem", "tiny") for name in ("resnet18", "resnext29_2", "vgg11_bn", "mobilenet_v2", "shufflenet_v2")),
    ],
)
def test_options_out_of_range(name: str, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{option} is {value!r}"):
        build_network(Choice(name=name, options={option: value}), 10)


# MobileNetV2's CIFAR form


@pytest.mark.parametrize(("channels", "out", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 6, 2)])
def test_a_block_adds_its_input_or_the_projection_of_it_at_stride_1(channels: int, out: int, stride: int) -> None:
    block = ProjectingResidual(channels, out, stride, expansion=6).eval()
    images = noise(2, channels, 8, 8)
    with torch.no_grad():
        added = block(images) - block.conv(images)
        if stride == 2:
            assert not added.any()
        elif channels == out:
            torch.testing.assert_close(added, images)
        else:
            projection = nn.functional.conv2d(images, block.shortcut[0].weight)
            torch.testing.assert_close(added, block.shortcut[1](projection))
            assert added.std() > 0


def test_no_activation_is_cut_off_in_the_cifar_form_of_a_mobilenet() -> None:
    assert not [part for part in network("mobilenet_v2").modules() if isinstance(part, nn.ReLU6)]
    assert [part for part in network("mobilenet_v2", IMAGENET).modules() if isinstance(part, nn.ReLU6)]


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
