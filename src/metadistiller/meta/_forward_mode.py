"""A forward-mode pass of torch's, with rules of our own for the two operations that take nearly all of its time.

Convolutions. The pass runs where a training pass has just been, with the same weights on the same images, so what the
convolutions gave there is kept and not computed again: a third of the pass.

Batch normalisation. torch composes its tangent of some thirty small operations, which take longer than the convolutions
around them, and gives it in float32 to a bfloat16 primal, which the next convolution refuses. But the Jacobian of
normalisation in its input is symmetric, so what carries a gradient back carries a tangent forward: with
x^ = (x - mean) / sigma and y = gamma x^ + beta,

    dy = gamma / sigma (dx - mean(dx) - x^ mean(x^ dx))  +  (dgamma x^ + dbeta)

where the first part is the backward kernel called with dx for the gradient of y, and the second the forward kernel
with dgamma and dbeta for scale and shift. Both are fused on processors and GPUs, in every precision and memory format.

Attention. The fused kernels have no forward-mode rule: the plain one is taken within the pass.

The nesting matters. A reverse pass over a forward-mode pass through train-mode batch normalisation is silently wrong in
PyTorch (pytorch/pytorch issue 196699); here nothing is differentiated twice, and what comes out are constants.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..nn import Moments, Synchronised, entered
from ._draws import Draws


class Kept(TorchFunctionMode):
    """While it is entered, keeps what convolutions give, in the order of each weight's uses; and what layers draw, to
    be drawn again."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: dict[int, list[tuple[Tensor, int]]] = {}
        self._draws: Draws | None = None

    def __enter__(self) -> "Kept":
        self._draws = Draws()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch declares no types here
        return self

    @property
    def draws(self) -> Draws:
        """From where on the pass drew; from here on, where there was none."""
        return self._draws or Draws()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and _drops_out(args, given):
            # Fused kernels draw other masks than the plain one, which the forward-mode pass needs.
            with plain_attention():
                return func(*args, **given)
        result = func(*args, **given)
        if func is torch.conv2d:
            output = result.detach()
            weight = args[1] if len(args) > 1 else given["weight"]
            # A weight that is made for the occasion (standardised, reparametrised) may lie where another one lay.
            if not isinstance(weight, nn.Parameter):
                return result
            self._outputs.setdefault(weight.data_ptr(), []).append((output, output._version))
        return result

    def take(self, weight: Tensor) -> Tensor | None:
        """What the next use of a weight gave, once; None where it was not kept, or has been written over since."""
        outputs = self._outputs.get(weight.data_ptr())
        if not outputs:
            return None
        output, version = outputs.pop(0)
        return output if output._version == version else None


def plain_attention() -> AbstractContextManager[Any]:
    """Within the block, attention is computed by the kernel that is made of differentiable operations."""
    kernel: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return kernel


def _drops_out(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    share: float = args[4] if len(args) > 4 else given.get("dropout_p", 0.0)
    return share > 0


@contextmanager
def forward_mode(kept: Kept | None = None) -> Iterator[None]:
    """Within the block, functions of `dual` tensors carry tangents.

    Args:
        kept: of a pass over the same images with the same weights; used up.
    """
    with forward_ad.dual_level(), warnings.catch_warnings(), plain_attention(), _Rules(kept or Kept()):
        # The first dual tensor loads torch's own decompositions, which warn that torch.jit.script is going away.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def dual(primal: Tensor, along: Tensor) -> Tensor:
    """A tensor with a tangent of its own shape."""
    made: Tensor = forward_ad.make_dual(primal, along)  # type: ignore[no-untyped-call]  # torch declares no types here
    return made


def tangent(value: Tensor) -> Tensor:
    """The tangent of what a function gave; zeros where it does not depend on any dual tensor."""
    found: Tensor | None = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]  # torch declares no types here
    return torch.zeros_like(value) if found is None else found


class _Rules(TorchFunctionMode):
    """Puts the rules above in place of torch's; everything else is torch's."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(self._kept, *args, **(kwargs or {}))
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        # Of normalisations under autocast torch gives a float32 tangent to a bfloat16 primal, too.
        return _in_one_precision(result) if func in _NORMALISATIONS else result


_NORMALISATIONS = (F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm, torch.layer_norm, torch.group_norm)


def _in_one_precision(value: Tensor) -> Tensor:
    primal, along = _parts(value)
    assert primal is not None
    return value if along is None or along.dtype == primal.dtype else dual(primal, along.to(primal.dtype))


def _conv2d(kept: Kept, input: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **more: Any) -> Tensor:
    """F.conv2d of dual tensors; arguments as there."""
    x, dx = _parts(input)
    w, dw = _parts(weight)
    b, db = _parts(bias)
    assert x is not None
    assert w is not None
    y = kept.take(w)
    if y is None:
        y = F.conv2d(x, w, b, *how, **more)
    dy = None if dx is None else F.conv2d(dx, w, None, *how, **more)
    if dw is not None:
        part = F.conv2d(x, dw, db, *how, **more)
        dy = part if dy is None else dy.add_(part)
    elif db is not None:
        part = db.to(y.dtype)[:, None, None].expand_as(y)
        dy = part.clone() if dy is None else dy.add_(part)
    return y if dy is None else dual(y, dy)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm of dual tensors; arguments as there."""
    x, dx = _parts(input)
    gamma, dgamma = _parts(weight)
    beta, dbeta = _parts(bias)
    assert x is not None
    mode = entered()
    if training and mode is not None:
        return _synchronised(mode, (x, dx), (gamma, dgamma), (beta, dbeta), eps)
    y, mean, inverse = torch.native_batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps)
    if not training:
        assert running_mean is not None
        assert running_var is not None
        mean, inverse = running_mean, torch.rsqrt(running_var + eps)
    dy = None
    if dx is not None:
        dy, _, _ = torch.ops.aten.native_batch_norm_backward(
            dx.to(x.dtype), x, gamma, running_mean, running_var, mean, inverse, training, eps, [True, False, False]
        )
    if dgamma is not None or dbeta is not None:
        scale, shift = (torch.zeros_like(mean) if part is None else part for part in (dgamma, dbeta))
        # With the statistics given, normalisation is one pass.
        affine = F.batch_norm(x, mean, inverse.pow(-2) - eps, scale, shift, training=False, eps=eps)
        dy = affine if dy is None else dy.add_(affine)
    return y if dy is None else dual(y, dy)


_Dual = tuple[Tensor | None, Tensor | None]  # value and tangent


def _synchronised(mode: Synchronised, x: tuple[Tensor, Tensor | None], gamma: _Dual, beta: _Dual, eps: float) -> Tensor:
    """The same over the images of all ranks."""
    (value, dx), (weight, dgamma), (bias, dbeta) = x, gamma, beta
    moments = Moments.of(value, mode)
    y = moments.normalised(value, weight, bias, eps)
    shown = moments.standardised(value, eps)
    by_channel = [1, -1, *[1] * (value.ndim - 2)]
    dy = None
    if dx is not None:
        along, _, _ = moments.projected(dx.to(shown.dtype), shown)
        scale = moments.inverse(eps) if weight is None else moments.inverse(eps) * weight
        dy = along * scale.view(by_channel)
    if dgamma is not None:
        part = shown * dgamma.view(by_channel)
        dy = part if dy is None else dy + part
    if dbeta is not None:
        part = dbeta.view(by_channel).expand_as(shown)
        dy = part.clone() if dy is None else dy + part
    return y if dy is None else dual(y, dy.to(y.dtype))


def _parts(value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if value is None:
        return None, None
    primal, along = forward_ad.unpack_dual(value)  # type: ignore[no-untyped-call]  # torch declares no types here
    return primal, along
