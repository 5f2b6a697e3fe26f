"""What holds targets near where they began: its value, its best answer, its place beside eq. 8."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metadistiller.meta import directional_derivatives, heldout_gradient, look_ahead, meta_loss, restraint

from .oracle import NETWORKS, Scene, double_backward, relative_error, scene

PAPER = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0}
OTHER = {"inner_lr": 0.02, "alpha": 0.2, "temperature": 3.0}


def drawn(count: int = 6, classes: int = 5, exits: int = 2) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """u, logits of the targets, and the reference's."""
    u, logits = ([torch.randn(count, classes, dtype=torch.float64) for _ in range(exits)] for _ in range(2))
    return u, [each.requires_grad_() for each in logits], torch.randn(count, classes, dtype=torch.float64)


def by_hand(u: list[Tensor], logits: list[Tensor], reference: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for u_k, logits_k in zip(u, logits, strict=True):
        target, known = (F.softmax(each / temperature, 1) for each in (logits_k, reference))
        # Over classes of an image, as anyone computes it; then over images.
        deviation = u_k.var(dim=1, correction=0).mean().sqrt()
        total = total + deviation * (target * (target / known).log()).sum() / len(target)
    return total


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_is_the_divergence_in_deviations_of_u(temperature: float) -> None:
    u, logits, reference = drawn()
    found = restraint(u, logits, reference, temperature=temperature)
    torch.testing.assert_close(found, by_hand(u, logits, reference, temperature), rtol=1e-12, atol=0)


def test_is_0_at_the_reference_and_above_it_elsewhere() -> None:
    u, logits, reference = drawn()
    there = restraint(u, [reference, reference + 2.0], reference, temperature=1.0)
    assert abs(there.item()) < 1e-12
    assert restraint(u, logits, reference, temperature=1.0) > 0


@pytest.mark.parametrize("weight", [0.1, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_best_answer_is_the_reference_tilted_by_u(weight: float, temperature: float) -> None:
    (u,), (others,), reference = drawn(exits=1)
    deviation = u.var(dim=1, correction=0).mean().sqrt()
    best = (reference - temperature * u / (weight * deviation)).requires_grad_()

    def objective(logits: Tensor) -> Tensor:
        target = F.softmax(logits / temperature, 1)
        return (u * target).sum(1).mean() + weight * restraint([u], [logits], reference, temperature=temperature)

    # It is convex in T_k, so where its slope is 0 there is no better.
    (slope,) = torch.autograd.grad(objective(best), best)
    assert slope.abs().max() < 1e-12
    assert objective(best) < objective(others)
    assert objective(best) < objective(reference)


def gradient(s: Scene, settings: dict[str, Any], kl_weight: float) -> list[Tensor]:
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, kl_weight=kl_weight, **settings)
    return list(torch.autograd.grad(found.surrogate, s.theta_g()))


@pytest.mark.parametrize("settings", [PAPER, OTHER])
@pytest.mark.parametrize("residual", [False, True])
def test_stands_beside_eq_8_in_its_units(residual: bool, settings: dict[str, float]) -> None:
    """What it adds to the gradient is that of zeta (1 - alpha) tau^2 lambda times itself, and nothing else."""
    s = scene(NETWORKS["wrn10_1"], width=6, residual=residual)
    weight = 0.3
    alone, both = gradient(s, settings, 0.0), gradient(s, settings, weight)
    assert relative_error(alone, double_backward(s, **settings)) < 1e-10

    ahead = look_ahead(s.student, s.generator, s.train_batch, **settings)
    _, v = heldout_gradient(s.student, ahead.fast_params, s.heldout_batch, heldout="final")
    u = directional_derivatives(s.student, v, ahead.images, temperature=settings["temperature"])
    features, exits = s.student(s.train_batch[0])
    final = exits[-1].detach()
    logits = s.generator([feature.detach() for feature in features], final)
    reference = final if residual else torch.zeros_like(final)
    away = by_hand(u, logits, reference, settings["temperature"])
    factor = settings["inner_lr"] * (1 - settings["alpha"]) * settings["temperature"] ** 2
    expected = torch.autograd.grad(factor * weight * away, s.theta_g())
    added = [whole - part for whole, part in zip(both, alone, strict=True)]
    assert relative_error(added, list(expected)) < 1e-9


@pytest.mark.parametrize("residual", [False, True])
def test_begins_without_a_force(residual: bool) -> None:
    """At the reference its gradient is 0: the first step is eq. 8's alone."""
    s = scene(NETWORKS["wrn10_1"], width=6, residual=residual)
    with torch.no_grad():
        for head in s.generator.heads:
            for p in head.get_submodule("fc").parameters():
                p.zero_()
        if residual:
            s.generator.scales.fill_(1.0)
    assert relative_error(gradient(s, PAPER, 10.0), gradient(s, PAPER, 0.0)) < 1e-10
