"""Stages of networks that are not ours as ONNX graphs: rows that go on carry more than the map that an exit reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metadistiller.data import Preparation, normalised
from metadistiller.engine.export import find_format, with_policy
from metadistiller.nn import MultiExit, adapt
from metadistiller.outcomes.policy import Policy

from .nets import noise
from .test_discovery import TINY, tiny

HEADER: dict[str, Any] = {
    "model": {"name": "toy"},
    "classes": list("abcde"),
    "size": [32, 32],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "preparation": Preparation(crop=(32, 32)).as_dict(),
}


class Asked:
    """As much of a method as an export asks for."""

    def __init__(self, student: MultiExit) -> None:
        self.student = student

    def multi_exit(self) -> MultiExit:
        return self.student


@pytest.mark.parametrize("name", TINY)
def test_a_chain_of_stages_answers_as_the_network_and_images_leave_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    student = MultiExit(adapt(tiny(name).float(), size=(32, 32)), (32, 32)).eval()
    form = find_format("onnx-stages")
    form.write(Asked(student), tmp_path / "net", HEADER)  # type: ignore[arg-type]
    opened = form.open(tmp_path / "net")
    pixels = (noise(5, 3, 32, 32) * 60 + 128).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        expected: list[Tensor] = student(normalised(pixels, HEADER["mean"], HEADER["std"]))[1]
    found = opened.answers(pixels)
    assert len(found) == len(expected) == opened.num_outputs
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    # As sure as the third surest image at the first exit: three leave there, and no other exit is asked.
    certain = expected[0].softmax(1).amax(1)
    number = opened.num_outputs
    policy = Policy(
        temperatures=(1.0,) * number,
        thresholds=(float(certain.sort().values[1:3].mean()), *(None,) * (number - 2)),
    )
    with_policy(tmp_path / "net", policy)
    leaving = form.open(tmp_path / "net").leaving
    assert leaving is not None
    shares, outputs = leaving(pixels, None)
    early = certain >= policy.thresholds[0]
    assert outputs.tolist() == [0 if left else number - 1 for left in early.tolist()]
    assert early.sum() == 3
    answered = torch.where(early[:, None], expected[0], expected[-1]).softmax(1)
    torch.testing.assert_close(shares, answered, rtol=1e-4, atol=1e-4)
