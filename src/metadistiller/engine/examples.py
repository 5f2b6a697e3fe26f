"""What soft targets and exits say about test images, one by one and on average: the material of Fig. 3."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..budget import no_limit
from ..config import require
from ..data import Dataset, evaluation_images
from ..errors import TrainingError
from ..methods import Method
from .machine import Machine
from .means import AGAINST_DIVERGENCE
from .stopping import until

USUAL_IMAGES = 3


@torch.no_grad()
def soft_target_examples(
    method: Method,
    dataset: Dataset,
    machine: Machine,
    *,
    batch_size: int,
    index: Sequence[int] | None = None,
    interrupted: Callable[[], bool] = no_limit,
) -> dict[str, Any]:
    """What soft_targets.json holds: distributions over the classes for some test images, mean entropies for all.

    An exit's own output is softmax(S_k), whatever the temperature of the soft targets is.

    Args:
        batch_size: images at once, >= 1.
        index: places in the test set, from 0; None takes the first image of each of three classes spread over the
            labels: chosen by their place, not by how well they look.
        interrupted: asked before each batch whether to break off.
    Raises: ConfigError where the test set has no such image; TrainingError where an answer is not finite; DataError;
        Stopped where `interrupted` said so.
    """
    places = _usual(dataset.test.labels) if index is None else _checked(index, len(dataset.test))
    pixels = dataset.test.pixels(places)
    with method.evaluating():
        parts = [_answers(method, dataset, machine, part) for part in torch.split(pixels, batch_size)]
        entropy = _mean_entropies(method, dataset, machine, batch_size, interrupted)
    targets, outputs = (
        [torch.cat(same).cpu() for same in zip(*kind, strict=True)] for kind in zip(*parts, strict=True)
    )
    return {
        "classes": list(dataset.classes),
        "images": [
            {
                "png": _png(pixels[i]),
                "index": place,
                "label": int(dataset.test.labels[place]),
                "final": outputs[-1][i].tolist(),
                "targets": [shares[i].tolist() for shares in targets],
                "exits": [shares[i].tolist() for shares in outputs[:-1]],
            }
            for i, place in enumerate(places.tolist())
        ],
        "entropy": entropy,
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


def _answers(method: Method, dataset: Dataset, machine: Machine, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """T_1..T_{K-1} and softmax(S_1)..softmax(S_K), (B, C) each, on the machine's device."""
    shown = machine.arrange(evaluation_images(pixels.to(machine.device), dataset))
    return method.soft_targets(shown), [F.softmax(logits.float(), dim=1) for logits in method.exits(shown)]


def _mean_entropies(
    method: Method, dataset: Dataset, machine: Machine, batch_size: int, interrupted: Callable[[], bool]
) -> dict[str, Any]:
    """Of every distribution over the test set, in nats; float64, so that a sum over many images loses nothing."""
    num_targets, sums = 0, torch.zeros((), dtype=torch.float64, device=machine.device)
    for pixels, _ in until(interrupted, dataset.test.batches(batch_size)):
        targets, outputs = _answers(method, dataset, machine, pixels)
        num_targets = len(targets)
        sums = sums + torch.stack([torch.special.entr(shares.double()).sum() for shares in (*targets, *outputs)])
    if not sums.isfinite().all():
        raise TrainingError(
            "a soft target or an exit's output on the test images is not finite: weights or batch statistics have "
            f"diverged; {AGAINST_DIVERGENCE}"
        )
    means = (sums / len(dataset.test)).tolist()
    return {
        "count": len(dataset.test),
        "targets": means[:num_targets],
        "exits": means[num_targets:-1],
        "final": means[-1],
    }


def _png(pixels: Tensor) -> str:
    """A (3, H, W) uint8 image as the base64 text of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")
