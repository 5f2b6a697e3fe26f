"""Networks of every family come out of every format as they went in (resnet10: tests/exporting)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metadistiller.data import Preparation, normalised
from metadistiller.engine.export import formats

from .nets import network

FAMILIES = [
    pytest.param("wrn10_1", {}, id="wrn"),
    pytest.param("resnext29_2", {"width": 4}, id="resnext"),
    pytest.param("vgg11_bn", {"width": 4}, id="vgg"),
    pytest.param("mobilenet_v2", {"width": 0.1}, id="mobilenet"),
    pytest.param("shufflenet_v2_x0_5", {}, id="shufflenet"),
    pytest.param("torchvision/resnet18", {}, id="torchvision"),
    pytest.param("timm/test_vit", {}, id="timm"),
]


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_every_format_answers_as_the_network(name: str, options: dict[str, object], tmp_path: Path) -> None:
    backbone = network(name, options, num_classes=7)
    height, width = backbone.usual_size
    how = Preparation(crop=(height, width))
    header = {
        "model": {"name": name, **options, **({"width": 0.1} if name == "mobilenet_v2" else {})},
        "classes": list("abcdefg"),
        "size": [height, width],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
        "preparation": how.as_dict(),
    }
    if name in ("wrn10_1", "shufflenet_v2_x0_5"):
        header["model"] = {"name": name}
    pixels = torch.randint(256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = backbone(normalised(pixels, header["mean"], header["std"]))
    method: Any = SimpleNamespace(deployable=lambda: backbone)
    for format in formats().values():
        path = tmp_path / f"net{format.suffix}"
        if not format.suffix:
            continue
        format.write(method, path, header)
        for way in dict.fromkeys((format.open, format.shipped)):
            opened = way(path)
            for count in (3, 1):
                [logits] = opened.answers(pixels[:count])
                scale = expected.abs().amax().clamp(min=1)
                assert logits.shape == (count, 7)
                assert ((logits - expected[:count]).abs() <= 1e-4 * scale).all(), format.name
                assert torch.equal(logits.argmax(1), expected[:count].argmax(1))
