"""What keeps a generator's targets near where they began; not in the paper.

Eq. 8 is linear in T_k: its best answer to any belief about u_k, noise included, is one class for certain. With the
divergence from a reference P beside it,

    <u_k, T_k> + lambda sigma_k KL(T_k || P),      sigma_k the standard deviation of u_k over classes,

the best answer is T_k = P exp(-E[u_k | x] / (lambda sigma_k)), normalised: as far from P as what can be told of u_k is
above its noise. With lambda = 0.1 a class whose u_k is expected 0.3 deviations below the others' has 20 times its mass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses import soft_divergence
from ..ranks import ALONE, Ranks


def restraint(
    u: Sequence[Tensor],
    target_logits: Sequence[Tensor],
    reference: Tensor,
    *,
    temperature: float,
    share: float = 1.0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """sum_k sigma_k KL(T_k || P), scalar; gradients reach the logits of T_k alone.

    Args:
        u: u_1..u_{K-1}, (N, C) each.
        target_logits: of T_1..T_{K-1}, (N, C) each.
        reference: logits of P, (N, C), detached.
        temperature: tau > 0, of T_k and P.
        share: of X_train that the N images are, where several ranks have it between them; sigma_k is that of all
            X_train, the root of a mean over images and classes.
    """
    squares = torch.stack([(u_k - u_k.mean(1, keepdim=True)).square().mean() for u_k in u]) * share
    ranks.sum_([squares])
    away = [soft_divergence(reference, logits, temperature=temperature) for logits in target_logits]
    # Eq. 4's factor tau^2 stands before the whole of what the generator minimises.
    return (squares.sqrt() * torch.stack(away)).sum() / temperature**2
