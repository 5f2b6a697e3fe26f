"""The two halves of eq. 8: the held-out gradient v at theta_s^+, and the exits' derivatives u_k along it at theta_s."""

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Batch, share_of
from ..losses import hard_loss, wide
from ..nn import MultiExit, counting
from ..ranks import ALONE, Ranks
from ._bound import call
from ._forward_mode import Kept, dual, forward_mode, plain_attention, tangent

Heldout = Literal["final", "all"]
Derivative = Literal["forward_mode", "double_backward", "finite_differences"]

# Of finite differences, the length of the step in theta_s. Shorter ones drown in float32's rounding, longer ones cross
# kinks of ReLU; benchmarks/meta_quality.py has the errors of three.
DIFFERENCE = 0.003


def heldout_gradient(
    student: MultiExit, fast_params: Mapping[str, Tensor], batch: Batch, *, heldout: Heldout, ranks: Ranks = ALONE
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_test at theta_s^+ and v, its gradient there (first half of eq. 8).

    Args:
        batch: X_test (N', 3, H, W) and Y_test (N',).
        ranks: which have the batch between them; loss and v are of the whole batch, the same on all.
        heldout: "final" takes the final output's cross entropy, as written; "all" sums it over all exits.
    Returns: the loss, detached; v by name, without the parameters that the loss does not depend on and those that no
        early exit depends on: eq. 8 has no use for them.
    """
    images, labels = batch
    # Gradients of the last stage's weights would be computed for nobody, as u_k is not a function of them.
    fast = {
        name: value.detach().requires_grad_(name in student.early_parameters) for name, value in fast_params.items()
    }
    if heldout == "final":
        fast = {name: value for name, value in fast.items() if name.startswith("backbone.")}
        bare = {name.removeprefix("backbone."): value for name, value in fast.items()}
        with counting(share_of(batch)):
            logits = call(student.backbone, student.backbone.forward, bare, images)
        loss = hard_loss(logits, labels)
    else:
        with counting(share_of(batch)):
            _, exit_logits = call(student, student.forward, fast, images)
        loss = torch.stack([hard_loss(logits, labels) for logits in exit_logits]).sum()
    loss = loss * share_of(batch)
    wanted = {name: value for name, value in fast.items() if value.requires_grad}
    # Where all of it is frozen there is nothing to differentiate.
    gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True) if wanted else ()
    found = {name: gradient for name, gradient in zip(wanted, gradients, strict=True) if gradient is not None}
    loss = loss.detach()
    ranks.sum_([loss, *found.values()])
    return loss, found


def directional_derivatives(
    student: MultiExit,
    direction: Mapping[str, Tensor],
    images: Tensor,
    *,
    temperature: float,
    how: Derivative = "forward_mode",
    kept: Kept | None = None,
) -> list[Tensor]:
    """u_1..u_{K-1}: derivative of log softmax(S_k / tau) along `direction` at theta_s; each (N, C), no graph.

    The last stage does not run: no early exit depends on it.

    Args:
        direction: v by name; parameters that it leaves out stay fixed.
        how: forward_mode is exact, and so is double_backward, which takes about twice the time and memory and needs no
            forward-mode rules. finite_differences takes the difference of the logits a little to either side, in the
            parameters' own precision whatever the autocast; for networks with an operation that can be differentiated
            once only. It crosses kinks of ReLU: see DIFFERENCE.
        kept: of a pass over the same images at theta_s, whose draws are drawn again; used up.
    """
    kept = kept or Kept()
    draws = kept.draws
    if not direction:
        # All that v could lead along is frozen: zeros, which forward mode gives of itself.
        how = "forward_mode"
    match how:
        case "forward_mode":
            with torch.no_grad(), draws.again():
                return _by_forward_mode(student, direction, images, temperature, kept)
        case "double_backward":
            with torch.enable_grad(), draws.again(), plain_attention():
                return _by_double_backward(student, direction, images, temperature)
        case "finite_differences":
            sides = []
            with torch.no_grad():
                along, step = _along(direction)
                for sign in (1, -1):
                    with draws.again():
                        sides.append(_aside(student, direction, along, sign, images, temperature))
            return [(above - below) / (2 * step) for above, below in zip(*sides, strict=True)]


def supported_derivative(student: MultiExit, images: Tensor) -> Derivative:
    """The first of forward_mode, double_backward and finite_differences that the network's operations allow; tried on
    two images, and said in a warning where it is not the first.
    """
    images = images[:2]
    direction = {name: p.detach() for name, p in student.named_parameters() if name in student.early_parameters}
    ways: tuple[Derivative, ...] = ("forward_mode", "double_backward", "finite_differences")
    for how, following in pairwise(ways):
        try:
            directional_derivatives(student, direction, images, temperature=1.0, how=how)
            return how
        # NotImplementedError of an operation without a rule is one of these.
        except RuntimeError as error:
            warnings.warn(
                f"this network cannot be differentiated by {how} ({' '.join(str(error).split())[:200]}); the exits' "
                f"derivative of eq. 8 is taken by {following}. To say so from the beginning and hear this no more: "
                f"derivative={following}",
                UserWarning,
                stacklevel=2,
            )
    return ways[-1]


def _by_forward_mode(
    student: MultiExit, direction: Mapping[str, Tensor], images: Tensor, temperature: float, kept: Kept | None
) -> list[Tensor]:
    with forward_mode(kept):
        params = {
            name: dual(value.detach(), direction[name]) if name in direction else value.detach()
            for name, value in student.named_parameters()
        }
        exit_logits = call(student, student.early_exits, params, images)
        return [tangent(F.log_softmax(wide(logits) / temperature, dim=1)) for logits in exit_logits]


def _by_double_backward(
    student: MultiExit, direction: Mapping[str, Tensor], images: Tensor, temperature: float
) -> list[Tensor]:
    """J v as the derivative of (J^T w) v in w, which it is linear in; w has no value that matters."""
    params = {name: value.detach() for name, value in student.named_parameters()}
    params |= {name: params[name].requires_grad_() for name in direction}
    exit_logits = call(student, student.early_exits, params, images)
    shares = [F.log_softmax(wide(logits) / temperature, dim=1) for logits in exit_logits]
    w = [torch.zeros_like(share, requires_grad=True) for share in shares]
    along = [params[name] for name in direction]
    pulled = torch.autograd.grad(shares, along, w, create_graph=True, allow_unused=True)
    parts = [(p * v).sum() for p, v in zip(pulled, direction.values(), strict=True) if p is not None]
    total = torch.stack(parts).sum()
    _refuse_once_differentiable(total)
    return list(torch.autograd.grad(total, w))


def _refuse_once_differentiable(value: Tensor) -> None:
    """Raises: RuntimeError where an operation can be differentiated once only.

    Autograd would leave its part out and say nothing: its node of complaint leads nowhere, and so is never run.
    """
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("Error"):
            raise RuntimeError("an operation of the network can be differentiated once only")
        waiting += [following for following, _ in node.next_functions]


def _along(direction: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """The steps of finite differences, DIFFERENCE long together, and their length in units of `direction`."""
    along = list(direction.values())
    # On the device: a number on the host would be waited for.
    step = DIFFERENCE / torch.nn.utils.get_total_norm(along).clamp_min(torch.finfo(along[0].dtype).tiny)
    return list(torch._foreach_mul(along, step)), step


def _aside(
    student: MultiExit,
    direction: Mapping[str, Tensor],
    steps: list[Tensor],
    sign: int,
    images: Tensor,
    temperature: float,
) -> list[Tensor]:
    """log softmax(S_k / tau) a step to one side of theta_s."""
    params = dict(student.named_parameters())
    moved = torch._foreach_add([params[name].detach() for name in direction], steps, alpha=sign)
    with torch.autocast(images.device.type, enabled=False):
        exit_logits = call(student, student.early_exits, params | dict(zip(direction, moved, strict=True)), images)
    return [F.log_softmax(logits / temperature, dim=1) for logits in exit_logits]
