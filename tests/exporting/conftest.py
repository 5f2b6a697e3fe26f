"""One small run that everything here is exported from, and its exports."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from metadistiller import assemble, exporting
from metadistiller.config import Choice, Config, Optim
from metadistiller.exporting import Exported

# A folder's name may be anything that a file system takes.
CLASSES = ("---\nx: [1", "`a` | <b> ``` *c*")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on 16 photographs of two classes, a dark and a bright one."""
    root = tmp_path_factory.mktemp("shipped")
    drawn = torch.Generator().manual_seed(3)
    for part, count in (("train", 8), ("val", 5)):
        for label, name in enumerate(CLASSES):
            (root / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(128, (30, 40, 3), dtype=torch.uint8, generator=drawn) + 127 * label
                Image.fromarray(pixels.numpy()).save(root / "photos" / part / name / f"{number}.png")
    config = Config(
        data=Choice(name="folder", options={"root": str(root / "photos"), "size": 32}),
        model=Choice(name="resnet10", options={"width": 4}),
        method=Choice(name="dsn"),
        optim=Optim(lr=0.05),
        epochs=2,
        batch_size=4,
        eval_batch_size=4,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )
    command = f"metadistiller train --data {root / 'photos'}"
    return assemble.train(config, root / "run", quiet=True, command=command).folder


@pytest.fixture(scope="session")
def exports(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Exported]:
    """Of every format one, each in a folder of its own, by name; that of ONNX with 8-bit numbers too."""
    found = {}
    for name, suffix in (("safetensors", "safetensors"), ("torch", "pt2"), ("onnx", "onnx")):
        out = tmp_path_factory.mktemp(name) / f"net.{suffix}"
        found[name] = exporting.export(run, out, format=name, int8=name == "onnx")
    out = tmp_path_factory.mktemp("stages") / "net"
    return found | {"onnx-stages": exporting.export(run, out, format="onnx-stages")}


@pytest.fixture(scope="session")
def image(run: Path) -> Path:
    return run.parent / "photos" / "val" / CLASSES[1] / "0.png"
