"""Accuracy as whole numbers: counts of every exit, the final output and the ensemble.

Counts add up over batches, machines and time without rounding. Evaluation is float32 and in evaluation mode, whatever
training was: it is what a user of the shipped network gets.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..budget import no_limit
from ..data import Dataset, LabelledImages, evaluation_images
from ..errors import ConfigError, TrainingError
from ..methods import Method
from ..outcomes import output_names
from ..ranks import ALONE, Ranks
from .machine import Machine
from .means import AGAINST_DIVERGENCE
from .stopping import until


def ensemble_scores(exit_logits: list[Tensor], how: Literal["logits", "probabilities"]) -> Tensor:
    """Equal-weight mean over all K outputs, (N, C): of the logits, or of the softmax (reading G14)."""
    stacked = torch.stack(exit_logits)
    return (stacked if how == "logits" else F.softmax(stacked, dim=2)).mean(0)


@dataclass(frozen=True)
class Evaluation:
    """What a method answers on a set of images.

    Attributes:
        count: images.
        top1, top5: right answers of S_1..S_K and then of the ensemble.
        confusion: (C, C) counts of the final output; row = true class, column = answer.
        loss: cross entropy of the final output in nats, mean over the images.
    """

    count: int
    top1: tuple[int, ...]
    top5: tuple[int, ...]
    confusion: list[list[int]]
    loss: float

    @property
    def percent(self) -> list[float]:
        """Top-1 in percent of S_1..S_K and the ensemble."""
        return [100 * right / self.count for right in self.top1]

    @property
    def exits(self) -> list[float]:
        """Of the early exits, shallow first."""
        return self.percent[:-2]

    @property
    def final(self) -> float:
        return self.percent[-2]

    @property
    def ensemble(self) -> float:
        return self.percent[-1]

    @property
    def names(self) -> list[str]:
        return [*output_names(len(self.top1) - 1), "ensemble"]

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        outputs = [
            {"name": name, "top1": top1, "top5": top5}
            for name, top1, top5 in zip(self.names, self.top1, self.top5, strict=True)
        ]
        return {
            "count": self.count,
            "classes": list(classes),
            "outputs": outputs,
            "loss": self.loss,
            "confusion": self.confusion,
        }


@torch.no_grad()
def evaluate(
    method: Method,
    dataset: Dataset,
    images: LabelledImages,
    *,
    machine: Machine,
    batch_size: int,
    ensemble: Literal["logits", "probabilities"] = "logits",
    interrupted: Callable[[], bool] = no_limit,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Counts over `images`. Leaves the method in the mode that it was in.

    Args:
        interrupted: asked before each batch whether to break off.
        ranks: that have the images between them, each image once; all return the counts of all.
    Raises: ConfigError where there are more ranks than images; TrainingError where the final output's loss is not
        finite; DataError where an image cannot be read; Stopped where `interrupted` said so.
    """
    if len(images) < ranks.world:
        raise ConfigError(f"{len(images)} images cannot be evaluated by {ranks.world} ranks; start fewer")
    with method.evaluating():
        return _count(method, dataset, images, machine, batch_size, ensemble, interrupted, ranks)


def _count(
    method: Method,
    dataset: Dataset,
    images: LabelledImages,
    machine: Machine,
    batch_size: int,
    ensemble: Literal["logits", "probabilities"],
    interrupted: Callable[[], bool],
    ranks: Ranks,
) -> Evaluation:
    classes = dataset.num_classes
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=machine.device)
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    hits1, hits5 = [], []
    for batch in until(interrupted, _own_batches(images, batch_size, ranks)):
        if batch is None:
            continue
        pixels, targets = batch
        labels = targets.to(machine.device)
        exit_logits = method.exits(machine.arrange(evaluation_images(pixels.to(machine.device), dataset)))
        scores = torch.stack([*exit_logits, ensemble_scores(exit_logits, ensemble)])
        ranked = scores.topk(min(5, classes), dim=2).indices == labels[:, None]
        hits1.append(ranked[:, :, 0].sum(1))
        hits5.append(ranked.any(2).sum(1))
        final = exit_logits[-1]
        confusion += torch.bincount(labels * classes + final.argmax(1), minlength=classes * classes)
        loss += F.cross_entropy(final, labels, reduction="sum")
    top1, top5 = torch.stack(hits1).sum(0), torch.stack(hits5).sum(0)
    ranks.sum_([top1, top5, confusion, loss])
    if not loss.isfinite():
        raise TrainingError(
            f"the test loss is {loss.item()}: the network's weights or batch statistics have diverged; "
            f"{AGAINST_DIVERGENCE}"
        )
    return Evaluation(
        count=len(images),
        top1=tuple(top1.tolist()),
        top5=tuple(top5.tolist()),
        confusion=confusion.view(classes, classes).tolist(),
        loss=loss.item() / len(images),
    )


def _own_batches(images: LabelledImages, batch_size: int, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor] | None]:
    """This rank's part in batches; on all ranks as many, with None where this one has no more."""
    if ranks.world == 1:
        yield from images.batches(batch_size)
        return
    own = images.take(torch.arange(ranks.rank, len(images), ranks.world)).batches(batch_size)
    # The first rank has an image more where they do not come out even.
    rounds = math.ceil(math.ceil(len(images) / ranks.world) / batch_size)
    yield from islice(chain(own, repeat(None)), rounds)
