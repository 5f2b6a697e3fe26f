"""Soft targets that need no generator, and what the held-out loss says of any target in a student's next step."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metadistiller.data import Batch
from metadistiller.meta import Heldout, Kept, directional_derivatives, heldout_gradient, shared_look_ahead
from metadistiller.nn import MultiExit


def untaught(exits: list[Tensor], labels: Tensor) -> dict[str, list[Tensor]]:
    """Logits of T_1..T_{K-1} by kind: the label, the final output, the exit's own output, no class before another.

    Args:
        exits: logits S_1..S_K, (N, C) each, detached.
        labels: (N,) int64.
    """
    early = len(exits) - 1
    # exp(-100) is nothing beside 1 in any precision, and logits of a label must be finite.
    one_hot = 100.0 * F.one_hot(labels, exits[0].shape[1])
    return {
        "label": [one_hot] * early,
        "final": exits[-1:] * early,
        "exit": exits[:-1],
        "uniform": [torch.zeros_like(one_hot)] * early,
    }


def derivative(
    student: MultiExit, train: Batch, heldout: Batch, *, lr: float, outputs: Heldout, kept: Kept | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The held-out loss after the step that .grad says, in nats, and u_k.

    Args:
        student: theta_s, with the gradient on train in the .grad of its parameters.
        train, heldout: (images, labels).
        lr: zeta.
        outputs: those that the held-out loss sums over.
        kept: entered while the student answered train; saves a part of the work.
    """
    ahead = shared_look_ahead(student, train, [], inner_lr=lr, kept=kept)
    loss, v = heldout_gradient(student, ahead.fast_params, heldout, heldout=outputs)
    return loss, directional_derivatives(student, v, train[0], temperature=1.0, kept=kept)
