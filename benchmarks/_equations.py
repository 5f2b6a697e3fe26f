"""The paper's equations with torch alone: nothing here comes from metadistiller.losses or metadistiller.meta."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def loss_of_exits(
    exits: Sequence[Tensor], targets: Sequence[Tensor], labels: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    """Eqs. 3 and 4, from logits; gradients flow to exits and targets."""
    loss = F.cross_entropy(exits[-1], labels)
    for logits, target in zip(exits[:-1], targets, strict=True):
        log_s, t = F.log_softmax(logits / temperature, dim=1), F.softmax(target / temperature, dim=1)
        soft = temperature**2 * F.kl_div(log_s, t, reduction="batchmean")
        loss = loss + alpha * F.cross_entropy(logits, labels) + (1 - alpha) * soft
    return loss
