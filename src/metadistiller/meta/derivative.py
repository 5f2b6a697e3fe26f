"""The two halves of eq. 8: the held-out gradient v at theta_s^+, and the exits' derivatives u_k along it at theta_s."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import hard_loss, wide
from ..nn import MultiExit
from ._bound import call
from ._forward_mode import Kept, dual, forward_mode, tangent

Heldout = Literal["final", "all"]
Derivative = Literal["forward_mode", "finite_differences"]

# Of finite differences, the length of the step in theta_s. Shorter ones drown in float32's rounding, longer ones cross
# kinks of ReLU; benchmarks/meta_quality.py has the errors of three.
DIFFERENCE = 0.003


def heldout_gradient(
    student: MultiExit, fast_params: Mapping[str, Tensor], images: Tensor, labels: Tensor, *, heldout: Heldout
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_test at theta_s^+ and v, its gradient there (first half of eq. 8).

    Args:
        images, labels: X_test (N', 3, H, W) and Y_test (N',).
        heldout: "final" takes the final output's cross entropy, as written; "all" sums it over all exits.
    Returns: the loss, detached; v by name, without the parameters that the loss does not depend on and those that no
        early exit depends on: eq. 8 has no use for them.
    """
    # Gradients of the last stage's weights would be computed for nobody, as u_k is not a function of them.
    fast = {
        name: value.detach().requires_grad_(name in student.early_parameters) for name, value in fast_params.items()
    }
    if heldout == "final":
        fast = {name: value for name, value in fast.items() if name.startswith("backbone.")}
        bare = {name.removeprefix("backbone."): value for name, value in fast.items()}
        logits = call(student.backbone, student.backbone.forward, bare, images)
        loss = hard_loss(logits, labels)
    else:
        _, exit_logits = call(student, student.forward, fast, images)
        loss = torch.stack([hard_loss(logits, labels) for logits in exit_logits]).sum()
    wanted = {name: value for name, value in fast.items() if value.requires_grad}
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    return loss.detach(), dict(zip(wanted, gradients, strict=True))


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
        how: forward_mode is exact. finite_differences takes the difference of the logits a little to either side, in
            the parameters' own precision whatever the autocast; for networks with an operation that has no forward-mode
            rule. It crosses kinks of ReLU: see DIFFERENCE.
        kept: of a pass over the same images at theta_s; used up.
    """
    with torch.no_grad():
        if how == "forward_mode":
            return _by_forward_mode(student, direction, images, temperature, kept)
        return _by_differences(student, direction, images, temperature)


def _by_forward_mode(
    student: MultiExit, direction: Mapping[str, Tensor], images: Tensor, temperature: float, kept: Kept | None
) -> list[Tensor]:
    with forward_mode(kept):
        params = {
            name: dual(value.detach(), direction[name]) if name in direction else value
            for name, value in student.named_parameters()
        }
        exit_logits = call(student, student.early_exits, params, images)
        return [tangent(F.log_softmax(wide(logits) / temperature, dim=1)) for logits in exit_logits]


def _by_differences(
    student: MultiExit, direction: Mapping[str, Tensor], images: Tensor, temperature: float
) -> list[Tensor]:
    params = dict(student.named_parameters())
    names = [name for name in params if name in direction]
    along = [direction[name] for name in names]
    # On the device: a number on the host would be waited for.
    step = DIFFERENCE / torch.nn.utils.get_total_norm(along).clamp_min(torch.finfo(along[0].dtype).tiny)
    steps = torch._foreach_mul(along, step)
    sides = []
    for sign in (1, -1):
        moved = torch._foreach_add([params[name].detach() for name in names], steps, alpha=sign)
        with torch.autocast(images.device.type, enabled=False):
            exit_logits = call(student, student.early_exits, params | dict(zip(names, moved, strict=True)), images)
        sides.append([F.log_softmax(logits / temperature, dim=1) for logits in exit_logits])
    return [(above - below) / (2 * step) for above, below in zip(*sides, strict=True)]
