"""What the held-out loss says of a target, by the derivative of the exits along its gradient (eq. 8)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Judged(NamedTuple):
    """What the held-out loss says of a distribution over classes at one exit; means over images, scalars.

    Attributes:
        gain: mean of -<u_k, T>, nats: to first order, what the held-out loss falls by, for a unit of zeta (1 - alpha)
            tau^2, for this soft term beside none in a plain step on this batch. 0 for the exit's own output; below 0
            the loss rises. It is what the generator raises.
        alignment: mean correlation over classes of T with -u_k, -1 to 1: 1 where T is -u_k but for scale and offset, 0
            for a uniform T. It does not see how large u_k is. Of a label it is the signal-to-noise of u_k, (mean over
            classes - at the label) / standard deviation over classes, divided by sqrt(C - 1).
    """

    gain: Tensor
    alignment: Tensor


@torch.no_grad()
def judge(u: Tensor, distribution: Tensor) -> Judged:
    """Args:
    u: u_k, (N, C); where the held-out loss wants a class to be likelier, it is low.
    distribution: probabilities (N, C).
    """
    wanted, mass = (value - value.mean(1, keepdim=True) for value in (-u, distribution))
    lengths = wanted.norm(dim=1) * mass.norm(dim=1)
    # A uniform softmax is uniform to rounding: its remainder has a direction, and no meaning.
    meant = (mass.norm(dim=1) > 1e-5 * distribution.norm(dim=1)) & (lengths > 0)
    correlations = torch.where(meant, (wanted * mass).sum(1) / lengths, 0.0)
    return Judged(gain=-(u * distribution).sum(1).mean(), alignment=correlations.mean())
