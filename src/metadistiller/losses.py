"""Pure functions of tensors. N images, C classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ShapeError


def wide(logits: Tensor) -> Tensor:
    """At least float32: bfloat16 has 8 bits, too few for the tail of a logarithm."""
    return logits if logits.dtype == torch.float64 else logits.float()


def soft_divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """tau^2 KL(T || S): the second term of eqs. 1 and 4.

    Args:
        student: logits S_k, (N, C); gradients flow.
        teacher: logits of T_k, (N, C); the caller detaches.
        temperature: tau > 0, no unit; the paper uses 1.
    Returns: scalar in nats, summed over classes, mean over N.
    Raises: ShapeError if the shapes differ.
    Source: Liu et al. 2020 sec. 3.1; Hinton et al. 2015 sec. 2.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"student logits are {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}; "
            "both must be (N, C) of the same images and classes"
        )
    log_s = F.log_softmax(wide(student) / temperature, dim=1)
    log_t = F.log_softmax(wide(teacher) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def hard_loss(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross entropy with the label: the first term of eqs. 1 and 4. Scalar in nats, mean over N.

    Args:
        logits: S_k, (N, C); gradients flow.
        labels: (N,) int64, or probabilities (N, C).
        label_smoothing: 0 to below 1.
        class_weights: (C,), or None for no weights. The mean is torch's: over the weights of the labels for labels
            (N,), over N for probabilities.
    """
    logits = wide(logits)
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    if labels.ndim == 2:
        labels = labels.to(logits)
    return F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=label_smoothing)


def self_boosting_loss(
    exit_logits: Sequence[Tensor],
    labels: Tensor,
    target_logits: Sequence[Tensor] | None,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_S of eq. 3 with L_k of eq. 4: one definition for the student's step and for the look-ahead.

    The final output has cross entropy of weight 1 and no soft term; each early exit has alpha and 1 - alpha; exits are
    summed, not averaged (reading G13).

    Args:
        exit_logits: S_1..S_K, each (N, C).
        labels: (N,) int64, or probabilities (N, C).
        target_logits: logits of T_1..T_{K-1}, or None for no soft term.
        alpha: weight of the hard label, 0 to 1.
        temperature: tau > 0.
        label_smoothing, class_weights: as in hard_loss, in every hard term.
    Returns: the loss, scalar in nats; and its unweighted parts by name, detached.
    """
    final = hard_loss(exit_logits[-1], labels, label_smoothing=label_smoothing, class_weights=class_weights)
    total, parts = final, {"final_hard": final.detach()}
    for k, logits in enumerate(exit_logits[:-1]):
        hard = hard_loss(logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
        total = total + alpha * hard
        parts[f"exit_{k + 1}_hard"] = hard.detach()
        # alpha = 1 leaves nothing of the soft term, not a zero that an infinity could turn into NaN.
        if target_logits is not None and alpha < 1:
            soft = soft_divergence(logits, target_logits[k], temperature=temperature)
            total = total + (1 - alpha) * soft
            parts[f"exit_{k + 1}_soft"] = soft.detach()
    return total, parts


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_S of eq. 1: alpha CE(y, S) + (1 - alpha) tau^2 KL(T || S).

    Args:
        logits: S, (N, C); gradients flow.
        labels: (N,) int64, or probabilities (N, C).
        teacher_logits: of T, (N, C); the caller detaches.
        alpha: weight of the hard label, 0 to 1.
        temperature: tau > 0.
        label_smoothing, class_weights: as in hard_loss, of the hard term.
    Returns: the loss, scalar in nats; and its unweighted parts by name, detached.
    Raises: ShapeError if the shapes differ.
    """
    hard = hard_loss(logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    total, parts = alpha * hard, {"final_hard": hard.detach()}
    # As in self_boosting_loss: alpha = 1 leaves nothing of the soft term.
    if alpha < 1:
        soft = soft_divergence(logits, teacher_logits, temperature=temperature)
        total = total + (1 - alpha) * soft
        parts["final_soft"] = soft.detach()
    return total, parts


def hint_loss(hint: Tensor, teacher: Tensor) -> Tensor:
    """How far a regressed feature map is from the teacher's: mean over all elements of the squared difference.

    Args:
        hint: the regressor's map, (N, D, H, W); gradients flow.
        teacher: the teacher's map, of the same shape; the caller detaches.
    Returns: scalar in squared units of the teacher's features.
    Raises: ShapeError if the shapes differ.
    Source: Romero et al., FitNets, ICLR 2015, sec. 2.2.
    Departs: the original sums over the map and halves; a mean does not depend on the map's size.
    """
    if hint.shape != teacher.shape:
        raise ShapeError(
            f"the regressor gives {tuple(hint.shape)}, the teacher's stage {tuple(teacher.shape)}; "
            "both must be (N, D, H, W) of the same images and the same stage"
        )
    return F.mse_loss(wide(hint), wide(teacher))


def attention_map(features: Tensor, *, power: float = 2.0) -> Tensor:
    """Where a stage looks: the mean over channels of |F|^p, flattened and of length 1 for each image.

    Args:
        features: (N, D, H, W).
        power: p >= 1.
    Returns: (N, H W), not negative; zero for an image whose features all are zero, and its gradient is zero there too.
    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, sec. 3.1.
    """
    return F.normalize(wide(features).abs().pow(power).mean(1).flatten(1), dim=1, eps=1e-12)


def attention_loss(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """How far two stages look at different places: mean over images and positions of the squared difference of their
    attention maps.

    Args:
        student: F_k of the student, (N, D, H, W); gradients flow.
        teacher: F_k of the teacher, (N, D', H', W'), of any number of channels; the caller detaches. Where sides
            differ, the larger map is average-pooled to the smaller one's.
        power: p >= 1, see attention_map.
    Returns: scalar, 0 to 2 / (H W).
    Raises: ShapeError if the numbers of images differ.
    Source: as attention_map; eq. 2 with the mean of the authors' program in place of the norm.
    """
    if len(student) != len(teacher):
        raise ShapeError(
            f"the student's features are of {len(student)} images, the teacher's of {len(teacher)}; "
            "both must be of the same images"
        )
    # Each side by itself: a pair of maps may be high on one hand and wide on the other.
    height, width = (min(student.shape[side], teacher.shape[side]) for side in (2, 3))
    ours, theirs = (
        attention_map(F.adaptive_avg_pool2d(wide(map_), (height, width)), power=power) for map_ in (student, teacher)
    )
    return (ours - theirs).square().mean()


@torch.no_grad()
def target_statistics(target_logits: Sequence[Tensor], labels: Tensor, *, temperature: float) -> dict[str, Tensor]:
    """How soft and how right each T_k is, mean over N: entropy in nats, confidence 0..1 (largest probability), accuracy
    in percent. A generator whose entropy falls to 0 has saturated and teaches nothing that the label does not (reading
    G10).

    Args: labels: (N,) int64, or probabilities (N, C), of which the likeliest class counts.
    """
    if labels.ndim == 2:
        labels = labels.argmax(1)
    parts = {}
    for k, logits in enumerate(target_logits, start=1):
        log_p = F.log_softmax(wide(logits) / temperature, dim=1)
        p = log_p.exp()
        parts[f"target_{k}_entropy"] = -(p * log_p).sum(1).mean()
        parts[f"target_{k}_confidence"] = p.amax(1).mean()
        parts[f"target_{k}_accuracy"] = 100 * (p.argmax(1) == labels).float().mean()
    return parts
