"""Sizes of the networks that the paper trains, and of what training adds to them.

Usage:
    python benchmarks/networks.py
    python benchmarks/networks.py --markdown > docs/networks.md

The first prints one JSON object, the second the page. Nothing is computed: all counts come from shapes, so they are the
same on every machine.
"""

import json
import sys
from typing import Any

from metadistiller.config import Choice
from metadistiller.inspection import inspect

CIFAR = (
    "resnet18",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext29_2",
    "wrn16_1",
    "vgg19_bn",
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2",
    "shufflenet_v2_x1_5",
)
IMAGENET = ("torchvision/resnet18", "torchvision/resnet50", "torchvision/vgg19", "torchvision/vgg19_bn")
# Title, classes, pixels of a side, networks.
SETTINGS = (("CIFAR-100", 100, 32, CIFAR), ("ImageNet", 1000, 224, IMAGENET))

HEAD = """\
# Sizes of the networks

What ships, and what training adds: the exits, and the generator in its two widths (docs/method.md says what they are).
MACs are multiply-accumulates of convolution and linear layers for one image; x is their ratio to the network's. After
training, exits and generator are removed, and the network has the numbers in its own columns again.

<!-- not run here: measures every network; tests/members/test_network_sizes.py holds the page to it -->
```sh
python benchmarks/networks.py --markdown > docs/networks.md
```
"""
COLUMNS = ("network", "F_1..F_K, channels @ side", "parameters", "MACs", "exits", "generator, mirror", "generator, 64")


def measure() -> dict[str, Any]:
    """Of every network what `inspect` says, with both generators."""
    return {
        "networks": [
            sizes(name, num_classes=classes, side=side) for _, classes, side, names in SETTINGS for name in names
        ]
    }


def sizes(name: str, *, num_classes: int, side: int) -> dict[str, Any]:
    found, narrow = (
        inspect(Choice(name=name), num_classes=num_classes, size=(side, side), generator_width=width)
        for width in ("mirror", 64)
    )
    mirror = found.pop("generator")
    return {**found, "generators": [mirror, narrow["generator"]]}


def markdown(measured: dict[str, Any]) -> str:
    """The page."""
    parts = [HEAD]
    for title, classes, side, names in SETTINGS:
        rows = [_row(found) for found in measured["networks"] if found["network"] in names]
        lines = [" | ".join(cells) for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
        parts.append(f"## {title}: {classes:,} classes, {side} x {side} pixels\n")
        parts.append("".join(f"| {line} |\n" for line in lines))
    return "\n".join(parts)


def _row(found: dict[str, Any]) -> list[str]:
    def added(counts: dict[str, Any]) -> str:
        return f"{counts['parameters']:,} / {counts['macs']:,} ({counts['macs'] / found['macs']:.2f} x)"

    exits = added(found["exits"]) + (", linear" if found["exits"]["design"] == "linear" else "")
    stages = ", ".join(f"{stage['channels']}@{stage['width']}" for stage in found["stages"])
    own = [f"`{found['network']}`", stages, f"{found['parameters']:,}", f"{found['macs']:,}"]
    return [*own, exits, *map(added, found["generators"])]


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--markdown"]):
        raise SystemExit(__doc__)
    print(markdown(measure()) if sys.argv[1:] else json.dumps(measure()), end="" if sys.argv[1:] else "\n")
