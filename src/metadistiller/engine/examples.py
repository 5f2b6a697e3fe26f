"""What soft targets and exits say about single test images: the material of Fig. 3, and the worst mistakes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config import require
from ..data import Dataset
from ..methods import Method
from ..outcomes import Outcomes
from ..outcomes.calibration import log_probabilities
from ..outcomes.mistakes import Answer, Mistake, Mistakes
from .answers import distributions
from .machine import Machine

USUAL_IMAGES = 3
MOST_MISTAKES = 24
MISTAKE_SIDE = 96  # pixels of a mistake's longer side at most: two dozen must fit a page


@torch.no_grad()
def soft_target_examples(
    method: Method,
    dataset: Dataset,
    machine: Machine,
    *,
    entropy: Mapping[str, Any],
    batch_size: int,
    index: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What soft_targets.json holds: distributions over the classes for some test images, mean entropies for all.

    An exit's own output is softmax(S_k), whatever the temperature of the soft targets is.

    Args:
        entropy: means over the test set, see Answers.
        batch_size: images at once, >= 1.
        index: places in the test set, from 0; None takes the first image of each of three classes spread over the
            labels: chosen by their place, not by how well they look.
    Raises: ConfigError where the test set has no such image; DataError.
    """
    places = _usual(dataset.test.labels) if index is None else _checked(index, len(dataset.test))
    pixels = dataset.test.pixels(places)
    with method.evaluating():
        parts = [distributions(method, dataset, machine, part) for part in torch.split(pixels, batch_size)]
    targets, logits = ([torch.cat(same).cpu() for same in zip(*kind, strict=True)] for kind in zip(*parts, strict=True))
    outputs = [F.softmax(each, dim=1) for each in logits]
    return {
        "classes": list(dataset.classes),
        "images": [
            {
                "png": png_text(pixels[i]),
                "index": place,
                "label": int(dataset.test.labels[place]),
                "final": outputs[-1][i].tolist(),
                "targets": [shares[i].tolist() for shares in targets],
                "exits": [shares[i].tolist() for shares in outputs[:-1]],
            }
            for i, place in enumerate(places.tolist())
        ],
        "entropy": dict(entropy),
    }


def _usual(labels: Tensor) -> Tensor:
    present = torch.unique(labels)
    count = min(USUAL_IMAGES, len(present))
    chosen = present[torch.linspace(0, len(present) - 1, count).round().long()]
    return torch.stack([torch.nonzero(labels == label)[0, 0] for label in chosen])


def _checked(index: Sequence[int], count: int) -> Tensor:
    require(len(index) > 0, "images", list(index), "name one or more test images by number")
    for place in index:
        require(0 <= place < count, "number of a test image", place, f"take 0 to {count - 1}")
    return torch.tensor(list(index))


def worst_mistakes(outcomes: Outcomes, dataset: Dataset) -> Mistakes:
    """Test images whose final answer is wrong, the most certain first, 24 at most.

    Raises: DataError where an image cannot be read.
    """
    shares = np.exp(log_probabilities(outcomes.logits))
    wrong = np.flatnonzero(~outcomes.right[-1])
    certain = shares.max(2)
    order = wrong[np.argsort(-certain[-1, wrong], kind="stable")][:MOST_MISTAKES]
    pixels = dataset.test.pixels(torch.from_numpy(outcomes.index[order]))

    def said(place: int) -> tuple[Answer, ...]:
        return tuple(
            Answer(answer=int(answer), confidence=float(confidence))
            for answer, confidence in zip(outcomes.answers[:, place], certain[:, place], strict=True)
        )

    images = []
    for picture, place in zip(pixels, order.tolist(), strict=True):
        *exits, final = said(place)
        label = int(outcomes.labels[place])
        images.append(
            Mistake(
                png=png_text(picture, MISTAKE_SIDE),
                index=int(outcomes.index[place]),
                label=label,
                label_share=float(shares[-1, place, label]),
                final=final,
                exits=tuple(exits),
            )
        )
    return Mistakes(classes=tuple(dataset.classes), count=len(outcomes.labels), wrong=len(wrong), images=tuple(images))


def png_text(pixels: Tensor, largest: int | None = None) -> str:
    """A (3, H, W) uint8 image as the base64 text of a PNG file, its longer side at most `largest`."""
    file = io.BytesIO()
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if largest is not None:
        # Smaller pictures stay as they are.
        picture.thumbnail((largest, largest))
    picture.save(file, format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")
