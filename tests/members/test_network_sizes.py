"""Networks, exits and generator have exactly the sizes of what they are named after, to the last parameter."""

import functools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loading import module_of
from metadistiller.config import Choice
from metadistiller.inspection import inspect

ROOT = Path(__file__).parents[2]
PAPER = {
    "resnet18",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext29_2",
    "wrn16_1",
    "vgg19_bn",
    "mobilenet_v2",
    "shufflenet_v2",
}


def counts(name: str, *, at: int = 32, stem: str | None = None, width: int | str = "mirror") -> dict[str, Any]:
    """At 32 pixels with 100 classes, at 224 with 1,000."""
    return dict(_counts(name, at, stem, width))


@functools.cache
def _counts(name: str, at: int, stem: str | None, width: int | str) -> dict[str, Any]:
    model = Choice(name=name, options={} if stem is None else {"stem": stem})
    return inspect(model, num_classes={32: 100, 224: 1000}[at], size=(at, at), generator_width=width)  # type: ignore[arg-type]


def millions(found: dict[str, Any]) -> float:
    return round(found["macs"] / 1e6, 1)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet18", 11_220_132, 555_468_800),
        ("resnet34", 21_328_292, 1_159_448_576),
        ("resnet50", 23_705_252, 1_298_014_208),
        ("resnet101", 42_697_380, 2_510_168_064),
        ("resnet152", 58_341_028, 3_722_321_920),
        ("resnext29_2", 9_222_564, 1_411_158_016),
        ("wrn16_1", 180_916, 26_663_168),
        ("vgg19_bn", 20_086_692, 398_182_400),
        ("mobilenet_v2", 2_412_212, 91_270_144),
        ("shufflenet_v2_x0_5", 444_292, 10_994_176),
        ("shufflenet_v2", 1_356_104, 45_094_272),
        ("shufflenet_v2_x1_5", 2_581_124, 94_351_872),
    ],
)
def test_sizes_at_32_pixels_and_100_classes(name: str, parameters: int, macs: int) -> None:
    found = counts(name)
    assert (found["parameters"], found["macs"]) == (parameters, macs)


def test_the_size_of_the_resnext_with_eight_groups() -> None:
    assert counts("resnext29_8")["parameters"] == 34_518_948


@pytest.mark.parametrize(
    ("name", "stem", "parameters", "macs"),
    [
        ("resnet18", "imagenet", 11_689_512, 1_814_073_344),
        ("resnet50", "imagenet", 25_557_032, 4_089_184_256),
        ("vgg19_bn", "imagenet", 143_678_248, 19_632_062_464),
        ("torchvision/resnet18", None, 11_689_512, 1_814_073_344),
        ("torchvision/resnet50", None, 25_557_032, 4_089_184_256),
        ("torchvision/vgg19", None, 143_667_240, 19_632_062_464),
        ("torchvision/vgg19_bn", None, 143_678_248, 19_632_062_464),
    ],
)
def test_sizes_at_224_pixels_and_1000_classes(name: str, stem: str | None, parameters: int, macs: int) -> None:
    found = counts(name, at=224, stem=stem)
    assert (found["parameters"], found["macs"]) == (parameters, macs)


def test_the_mobilenet_for_imagenet_has_the_published_parameters() -> None:
    assert counts("mobilenet_v2", at=224, stem="imagenet")["parameters"] == 3_504_872


@pytest.mark.parametrize(
    ("name", "at", "parameters", "macs"),
    [
        ("resnet18", 32, 1_791_020, 40.0),
        ("resnet50", 32, 3_027_500, 93.9),
        ("resnet101", 32, 3_027_500, 93.9),
        ("resnet152", 32, 3_027_500, 93.9),
        ("resnext29_2", 32, 900_808, 88.3),
        ("wrn16_1", 32, 21_512, 0.9),
        ("vgg19_bn", 32, 89_900, 0.1),
        ("mobilenet_v2", 32, 727_180, 13.0),
        ("shufflenet_v2", 32, 514_312, 11.3),
        ("shufflenet_v2_x0_5", 32, 111_752, 2.0),
        ("torchvision/resnet18", 224, 3_176_120, 123.6),
        ("torchvision/resnet50", 224, 8_559_800, 291.9),
        ("torchvision/vgg19", 224, 899_000, 0.9),
    ],
)
def test_sizes_of_the_exits(name: str, at: int, parameters: int, macs: float) -> None:
    exits = counts(name, at=at)["exits"]
    assert (exits["parameters"], millions(exits)) == (parameters, macs)
    assert exits["design"] == ("linear" if "vgg" in name else "bottleneck")


@pytest.mark.parametrize(
    ("name", "at", "width", "parameters", "macs"),
    [
        ("resnet18", 32, "mirror", 3_775_340, 295.9),
        ("resnet18", 32, 64, 1_930_732, 93.7),
        ("resnet18", 32, 256, 3_849_004, 893.5),
        ("resnet50", 32, "mirror", 34_754_348, 4187.6),
        ("resnet101", 32, 64, 3_179_500, 127.2),
        ("resnet50", 32, 256, 5_650_732, 997.8),
        ("resnext29_2", 32, "mirror", 8_506_312, 2839.7),
        ("resnext29_2", 32, 64, 1_007_624, 125.0),
        ("resnext29_2", 32, 256, 2_507_720, 952.3),
        ("wrn16_1", 32, "mirror", 51_416, 11.6),
        ("wrn16_1", 32, 64, 104_008, 50.8),
        ("wrn16_1", 32, 256, 1_238_536, 768.0),
        ("vgg19_bn", 32, "mirror", 4_614_572, 210.9),
        ("vgg19_bn", 32, 64, 220_652, 16.2),
        ("vgg19_bn", 32, 256, 2_208_812, 213.5),
        ("mobilenet_v2", 32, "mirror", 1_176_100, 50.1),
        ("mobilenet_v2", 32, 64, 871_628, 69.2),
        ("mobilenet_v2", 32, 256, 2_668_556, 841.4),
        ("shufflenet_v2", 32, "mirror", 2_076_716, 152.5),
        ("shufflenet_v2", 32, 64, 614_808, 23.6),
        ("shufflenet_v2", 32, 256, 1_922_136, 217.7),
        ("shufflenet_v2_x0_5", 32, "mirror", 379_640, 26.1),
        ("shufflenet_v2_x0_5", 32, 64, 206_536, 15.2),
        ("torchvision/resnet18", 224, "mirror", 5_160_440, 907.1),
        ("torchvision/resnet50", 224, "mirror", 40_286_648, 12828.7),
        ("torchvision/resnet50", 224, 128, 9_314_360, 979.2),
        ("torchvision/vgg19", 224, "mirror", 5_423_672, 10328.3),
    ],
)
def test_sizes_of_the_generator(name: str, at: int, width: int | str, parameters: int, macs: float) -> None:
    generator = counts(name, at=at, width=width)["generator"]
    assert (generator["width"], generator["parameters"], millions(generator)) == (width, parameters, macs)


@pytest.mark.parametrize(
    ("name", "at", "stages"),
    [
        ("resnet18", 32, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("resnet50", 32, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnext29_2", 32, [(256, 32), (512, 16), (1024, 8)]),
        ("wrn16_1", 32, [(16, 32), (32, 16), (64, 8)]),
        ("vgg19_bn", 32, [(128, 16), (256, 8), (512, 4), (512, 2)]),
        ("mobilenet_v2", 32, [(24, 32), (32, 16), (96, 8), (320, 4)]),
        ("shufflenet_v2_x0_5", 32, [(48, 16), (96, 8), (192, 4)]),
        ("shufflenet_v2", 32, [(116, 16), (232, 8), (464, 4)]),
        ("shufflenet_v2_x1_5", 32, [(176, 16), (352, 8), (704, 4)]),
        ("torchvision/resnet18", 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
        ("torchvision/resnet50", 224, [(256, 56), (512, 28), (1024, 14), (2048, 7)]),
        ("torchvision/vgg19", 224, [(128, 112), (256, 56), (512, 28), (512, 14)]),
    ],
)
def test_shapes_of_the_stages(name: str, at: int, stages: list[tuple[int, int]]) -> None:
    found = counts(name, at=at)["stages"]
    assert [(stage["channels"], stage["height"]) for stage in found] == stages
    assert all(stage["height"] == stage["width"] for stage in found)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("resnet50", "resnet50"),
        ("vgg19_bn", "vgg19_bn"),
        ("mobilenet_v2", "mobilenet_v2"),
        ("shufflenet_v2", "shufflenet_v2_x1_0"),
    ],
)
def test_our_imagenet_forms_and_torchvisions_networks_are_cut_alike(ours: str, theirs: str) -> None:
    mine, adapted = counts(ours, at=224, stem="imagenet"), counts(f"torchvision/{theirs}", at=224)
    # Of an adapted network the modules are named too.
    assert adapted.pop("candidates")
    for stage in adapted["stages"]:
        del stage["module"]
    assert {**mine, "network": ""} == {**adapted, "network": ""}


# The page of sizes


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return module_of(ROOT / "benchmarks" / "networks.py")


def test_the_page_of_sizes_is_what_the_script_says(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def remembered(model: Choice, *, size: tuple[int, int], generator_width: int | str, **_: object) -> dict[str, Any]:
        return counts(model.name, at=size[0], width=generator_width)

    monkeypatch.setattr(script, "inspect", remembered)
    measured = script.measure()
    assert json.loads(json.dumps(measured)) == measured
    assert (ROOT / "docs" / "networks.md").read_text(encoding="utf-8") == script.markdown(measured), (
        "docs/networks.md is stale: python benchmarks/networks.py --markdown > docs/networks.md"
    )


def test_the_page_has_every_network_of_the_paper(script: ModuleType) -> None:
    assert set(script.CIFAR) - {"shufflenet_v2_x0_5", "shufflenet_v2_x1_5"} == PAPER
    assert {f"torchvision/{name}" for name in ("resnet18", "resnet50", "vgg19")} < set(script.IMAGENET)
