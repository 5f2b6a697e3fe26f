"""Batch normalisation over the images of all ranks, for any network: what F.batch_norm does is done by all together.

torch's SyncBatchNorm runs on GPUs only, has to be put into the network, and has no forward-mode rule, so that the meta
step of eq. 8 could not be exact with it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..ranks import Ranks


class Synchronised(TorchFunctionMode):
    """While it is entered, batch normalisation in training mode takes the statistics of all ranks' images.

    Args:
        ranks: whose.
        counts: whether this rank's images belong to the batch; those of a rank that only stands by do not.
    """

    def __init__(self, ranks: Ranks, counts: bool = True) -> None:
        super().__init__()
        self.ranks = ranks
        self.counts = counts

    def __enter__(self) -> "Synchronised":
        self._token = _entered.set(self)
        super().__enter__()  # type: ignore[no-untyped-call]  # torch declares no types here
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # as above
        _entered.reset(self._token)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """F.batch_norm; arguments as there."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        moments = Moments.of(input, self)
        moments.follow(running_mean, running_var, momentum)
        normalised: Tensor = _Normalise.apply(input, weight, bias, moments, eps)
        return normalised


_entered: ContextVar[Synchronised | None] = ContextVar("synchronised", default=None)


def entered() -> Synchronised | None:
    """The one that is entered, if any."""
    return _entered.get()


@contextmanager
def counting(share: float) -> Iterator[None]:
    """Within the block, this rank's images belong to the batch where their share of it is above 0."""
    mode = _entered.get()
    if mode is None:
        yield
        return
    before, mode.counts = mode.counts, share > 0
    try:
        yield
    finally:
        mode.counts = before


class Moments:
    """Mean and variance of each channel over all ranks' images.

    Attributes:
        mean, var: (C,) in float32 or wider; var is that of the images themselves, divided by their number.
        count: numbers in a channel, over all ranks, of those that count.
    """

    def __init__(self, mean: Tensor, var: Tensor, count: Tensor, mode: Synchronised) -> None:
        self.mean, self.var, self.count = mean, var, count
        self.ranks, self.counts = mode.ranks, mode.counts

    @classmethod
    def of(cls, x: Tensor, mode: Synchronised) -> "Moments":
        """Args: x: (N, C, ...)."""
        values = _wide(x)
        var, mean = torch.var_mean(values, _others(x), correction=0)
        own = mean.new_full((1,), x.numel() // x.shape[1] if mode.counts else 0)
        found = mode.ranks.gathered(torch.cat([own, mean, var]))
        counts, (means, variances) = found[:, :1], torch.split(found[:, 1:], len(mean), dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        # Not by squares: their difference would lose what is left of a large mean's variance.
        var = (counts * (variances + (means - mean).square())).sum(0) / total
        return cls(mean, var, total, mode)

    def follow(self, running_mean: Tensor | None, running_var: Tensor | None, momentum: float) -> None:
        """Move running averages towards these, as batch normalisation does."""
        if running_mean is None or running_var is None:
            return
        with torch.no_grad():
            running_mean.lerp_(self.mean.to(running_mean.dtype), momentum)
            running_var.lerp_((self.var * self.count / (self.count - 1)).to(running_var.dtype), momentum)

    def normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, weight, bias, training=False, eps=eps)

    def standardised(self, x: Tensor, eps: float) -> Tensor:
        """(x - mean) / sigma in float32 or wider."""
        return (_wide(x) - _by_channel(self.mean, x)) * _by_channel(self.inverse(eps), x)

    def inverse(self, eps: float) -> Tensor:
        """1 / sigma, (C,)."""
        return torch.rsqrt(self.var + eps)

    def projected(self, along: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`along` without its mean and its component along `shown`, over all ranks' images; and this rank's sums.

        The Jacobian of normalisation is this, times gamma / sigma; it is symmetric, so that gradients and tangents go
        the same way.

        Args:
            along: (N, C, ...).
            shown: the standardised images.
        Returns: (N, C, ...), and sums over this rank's images of `along` and of `along` times `shown`, (C,).
        """
        sums = along.sum(_others(along)), (along * shown).sum(_others(along))
        both = torch.stack(sums) * float(self.counts)
        self.ranks.sum_([both])
        if not self.counts:
            # They are normalised by the others' statistics, and do not take part in them.
            return along, *sums
        mean, component = both / self.count
        return along - _by_channel(mean, along) - shown * _by_channel(component, along), *sums


class _Normalise(torch.autograd.Function):
    """y = gamma (x - mean) / sigma + beta with gradients through mean and sigma, on all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, moments: Moments, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.moments, ctx.eps = moments, eps
        return moments.normalised(x, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shown = ctx.moments.standardised(x, ctx.eps)
        along, total, component = ctx.moments.projected(_wide(dy), shown)
        scale = ctx.moments.inverse(ctx.eps)
        if weight is not None:
            scale = scale * weight
        dx = (along * _by_channel(scale, x)).to(x.dtype)
        if weight is None:
            return dx, None, None, None, None
        return dx, component.to(weight.dtype), total.to(weight.dtype), None, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _others(x: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [0, *range(2, x.ndim)]


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))
