"""Three test images with their soft targets and the final output: the material of Fig. 3."""

import base64
import io
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data import Dataset, evaluation_images
from ..methods import Method
from .machine import Machine


@torch.no_grad()
def soft_target_examples(method: Method, dataset: Dataset, machine: Machine, *, count: int = 3) -> dict[str, Any]:
    """What soft_targets.json holds: the first test image of each of `count` classes spread over the labels.

    The images are chosen by their place, not by how well they look.
    """
    labels = dataset.test.labels
    present = torch.unique(labels)
    count = min(count, len(present))
    chosen = present[torch.linspace(0, len(present) - 1, count).round().long()]
    index = torch.stack([torch.nonzero(labels == label)[0, 0] for label in chosen])
    pixels = dataset.test.images[index]
    with method.evaluating():
        shown = machine.arrange(evaluation_images(pixels.to(machine.device), dataset))
        targets = [t.cpu() for t in method.soft_targets(shown)]
        final = F.softmax(method.exits(shown)[-1], dim=1).cpu()
    return {
        "classes": list(dataset.classes),
        "images": [
            {
                "png": _png(pixels[i]),
                "label": int(labels[index[i]]),
                "final": final[i].tolist(),
                "targets": [t[i].tolist() for t in targets],
            }
            for i in range(count)
        ],
    }


def _png(pixels: Tensor) -> str:
    """A (3, H, W) uint8 image as the base64 text of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")
