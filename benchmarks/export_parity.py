"""Every CIFAR network of the paper, at full size, in every format: do the files answer as the network does?

Usage:
    python benchmarks/export_parity.py CIFAR100 [--images 64] [--networks A,B] [--formats A,B] [--with FILE] > out.json

Not a measurement of accuracy: weights are the initial ones, and batch statistics those of training images, which is
what a graph is most easily wrong about. Each file is written, read back and asked the same test images as the network
by the function that `metadistiller export` calls (metadistiller.engine.export.export_network), which refuses what
differs; a refusal is a row with its reason. Beside the paper's networks there are three that are not ours: two of timm
and one of torchvision, with the images enlarged to the size that they were made for.

`--with` takes the rows of an earlier result that are not measured now. Prints one JSON object; a line for each row goes
to standard error. Seconds are of writing, reading back and asking, on one thread of a machine with other jobs.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import environment

from metadistiller import paper
from metadistiller.building import build_method, load_data
from metadistiller.config import Choice, Config
from metadistiller.data import Dataset, ImageSet, evaluation_images
from metadistiller.engine.export import export_network, formats
from metadistiller.errors import ExportError
from metadistiller.methods import Method
from metadistiller.nn import build_network

OTHERS = ("timm/resnet18", "timm/vit_tiny_patch16_224", "torchvision/mobilenet_v3_small")
NETWORKS = (*(name for name, network in paper.NETWORKS.items() if network.data == "cifar100"), *OTHERS)


def shown(dataset: Dataset, side: int, images: int) -> Dataset:
    """The training images and `images` test images, enlarged to a side of `side` pixels."""

    def part(source: ImageSet, count: int) -> ImageSet:
        few = source.take(torch.arange(count) * len(source) // count)
        if side != source.size[0]:
            few = replace(few, images=F.interpolate(few.images, size=(side, side)))
        return few

    assert isinstance(dataset.train, ImageSet)
    assert isinstance(dataset.test, ImageSet)
    return replace(dataset, train=part(dataset.train, len(dataset.train)), test=part(dataset.test, images))


def with_statistics(config: Config, dataset: Dataset) -> Method:
    """Plain training's network with the batch statistics of training images; in evaluation mode."""
    method = build_method(config, dataset)
    assert isinstance(dataset.train, ImageSet)
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        method.train().exits(evaluation_images(dataset.train.images[:32], dataset))
    return method.eval()


def rows_of(name: str, dataset: Dataset, wanted: list[str], images: int) -> list[dict[str, Any]]:
    config = Config(
        data=Choice(name="cifar100"),
        model=Choice(name=name),
        method=Choice(name="plain"),
        eval_batch_size=32,
        precision="float32",
    )
    with torch.device("meta"):
        side = build_network(config.model, 100).usual_size[0]
    data = shown(dataset, side, images)
    method = with_statistics(config, data)
    found = []
    for format in (formats()[each] for each in wanted):
        row: dict[str, Any] = {"network": name, "size": side, "format": format.name, "images": len(data.test)}
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{format.suffix}"
            try:
                proof = export_network(method, path, format, config=config, dataset=data, count=images)
                row |= {"passes": True, "gap": proof.gap, "bytes": path.stat().st_size}
            except ExportError as error:
                row |= {"passes": False, "reason": str(error).replace(folder, "")}
        row["seconds"] = round(time.perf_counter() - began, 2)
        print(json.dumps(row), file=sys.stderr, flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--formats", default=",".join(name for name, each in formats().items() if each.suffix))
    parser.add_argument("--with", dest="earlier")
    given = parser.parse_args()
    torch.manual_seed(0)
    dataset = load_data(Choice(name="cifar100", options={"root": given.root, "train_per_class": 1}))
    rows = json.loads(Path(given.earlier).read_text())["rows"] if given.earlier else []
    for name in given.networks.split(","):
        new = rows_of(name, dataset, given.formats.split(","), given.images)
        again = {(row["network"], row["format"]) for row in new}
        rows = [row for row in rows if (row["network"], row["format"]) not in again] + new
    order = {name: place for place, name in enumerate(NETWORKS)}
    rows.sort(key=lambda row: order.get(row["network"], len(order)))
    result = {
        "command": "python benchmarks/export_parity.py CIFAR100",
        "environment": environment(torch.device("cpu")),
        "passes": sum(row["passes"] for row in rows),
        "of": len(rows),
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
