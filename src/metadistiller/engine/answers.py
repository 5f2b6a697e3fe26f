"""One look at every test image: what all outputs say, kept as far as it fits, and how certain they are on average."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..budget import no_limit
from ..data import Dataset, evaluation_images
from ..errors import TrainingError
from ..methods import Method
from ..nn import exit_costs, plain_costs
from ..outcomes import Outcomes, kept_places
from .machine import Machine
from .means import AGAINST_DIVERGENCE
from .stopping import until


@dataclass(frozen=True)
class Answers:
    """Of a method, on the test images.

    Attributes:
        outcomes: logits, labels, costs.
        entropy: means over the test set, as soft_targets.json has them.
    """

    outcomes: Outcomes
    entropy: dict[str, Any]


def distributions(
    method: Method, dataset: Dataset, machine: Machine, pixels: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """T_1..T_{K-1}, probabilities, and the logits S_1..S_K, float32; (B, C) each, on the machine's device.

    Args:
        pixels: (B, 3, H, W) uint8, as evaluation shows them.
    """
    shown = machine.arrange(evaluation_images(pixels.to(machine.device), dataset))
    return method.soft_targets(shown), [logits.float() for logits in method.exits(shown)]


@torch.no_grad()
def answers(
    method: Method,
    dataset: Dataset,
    machine: Machine,
    *,
    batch_size: int,
    interrupted: Callable[[], bool] = no_limit,
) -> Answers:
    """What a method says of the test set.

    Args:
        batch_size: images at once, >= 1.
        interrupted: asked before each batch whether to break off.
    Raises: TrainingError where an answer is not finite; DataError; Stopped where `interrupted` said so.
    """
    # Sums in float64, so that many images lose nothing.
    num_targets, sums, total = 0, torch.zeros((), dtype=torch.float64, device=machine.device), len(dataset.test)
    kept: list[Tensor] = []
    places, begin = np.empty(0, dtype=np.int64), 0
    with method.evaluating():
        for pixels, _ in until(interrupted, dataset.test.batches(batch_size)):
            targets, logits = distributions(method, dataset, machine, pixels)
            num_targets = len(targets)
            every = (*targets, *(F.softmax(each, dim=1) for each in logits))
            sums = sums + torch.stack([torch.special.entr(shares.double()).sum() for shares in every])
            if not kept:
                places = kept_places(total, num_outputs=len(logits), num_classes=dataset.num_classes)
            here = places[(begin <= places) & (places < begin + len(pixels))] - begin
            kept.append(torch.stack(logits)[:, torch.from_numpy(here).to(machine.device)].cpu())
            begin += len(pixels)
    if not sums.isfinite().all():
        raise TrainingError(
            "a soft target or an exit's output on the test images is not finite: weights or batch statistics have "
            f"diverged; {AGAINST_DIVERGENCE}"
        )
    means = (sums / total).tolist()
    student = method.multi_exit()
    costs = plain_costs(method.deployable(), dataset.size) if student is None else exit_costs(student, dataset.size)
    return Answers(
        Outcomes(
            logits=torch.cat(kept, dim=1).numpy(),
            labels=dataset.test.labels.cpu().numpy()[places],
            index=places,
            total=total,
            trunk_macs=costs.trunk,
            exit_macs=costs.exits,
        ),
        {
            "count": total,
            "targets": means[:num_targets],
            "exits": means[num_targets:-1],
            "final": means[-1],
        },
    )
