"""judge: what the held-out loss says of a distribution over classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from metadistiller.meta import (
    directional_derivatives,
    heldout_gradient,
    judge,
    look_ahead,
    meta_loss,
    shared_look_ahead,
)

from .oracle import NETWORKS, scene


def alignment(u: torch.Tensor, distribution: torch.Tensor) -> torch.Tensor:
    return judge(u, distribution).alignment


PAPER = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0}


def test_is_the_mean_over_images_of_the_correlation_over_classes() -> None:
    u, p = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64).softmax(1)
    expected = [-torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(u, p, strict=True)]
    torch.testing.assert_close(alignment(u, p), torch.stack(expected).mean())


def test_is_one_for_mass_where_it_is_wanted_and_minus_one_for_its_opposite() -> None:
    u = torch.rand(4, 10, dtype=torch.float64)
    wanted = (1 - u) / (1 - u).sum(1, keepdim=True)
    assert alignment(u, wanted).item() == pytest.approx(1, abs=1e-12)
    assert alignment(-u, wanted).item() == pytest.approx(-1, abs=1e-12)


def test_does_not_depend_on_the_scale_or_the_offset_of_u() -> None:
    u, p = torch.randn(4, 10), torch.randn(4, 10).softmax(1)
    torch.testing.assert_close(alignment(1e-4 * u + 1, p), alignment(u, p), rtol=2e-2, atol=1e-4)
    torch.testing.assert_close(alignment(1e-6 * u, p), alignment(u, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_nothing_is_aligned_with_a_uniform_distribution_or_with_no_derivative(dtype: torch.dtype, classes: int) -> None:
    uniform = torch.full((3, classes), 0.7, dtype=dtype).softmax(1)
    assert alignment(torch.randn(3, classes, dtype=dtype), uniform) == 0
    assert alignment(torch.zeros(3, classes, dtype=dtype), torch.randn(3, classes, dtype=dtype).softmax(1)) == 0


def test_of_a_label_is_the_signal_to_noise_times_a_constant() -> None:
    classes = 100
    u, label = torch.randn(1, classes, dtype=torch.float64), 3
    others = torch.cat([u[0, :label], u[0, label + 1 :]])
    signal_to_noise = (others.mean() - u[0, label]) / u.std(correction=0)
    found = alignment(u, torch.eye(classes, dtype=torch.float64)[label][None])
    torch.testing.assert_close(found, signal_to_noise * math.sqrt(classes - 1) / classes)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_meta_step_tells_that_of_its_targets_and_of_its_labels(mixed: bool) -> None:
    s = scene(NETWORKS["wrn10_1"])
    images, labels = s.train_batch
    mass = torch.eye(5, dtype=torch.float64)[labels]
    if mixed:
        mass = 0.7 * mass + 0.3 * mass.flip(0)
        s.train_batch = images, mass
    ahead = look_ahead(s.student, s.generator, s.train_batch, **PAPER)
    _, v = heldout_gradient(s.student, ahead.fast_params, s.heldout_batch, heldout="final")
    u = directional_derivatives(s.student, v, images, temperature=1.0)
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    assert len(found.of_targets) == len(found.of_labels) == len(u) > 1
    for k, u_k in enumerate(u):
        target = ahead.target_logits[k].detach().softmax(1)
        torch.testing.assert_close(torch.stack(found.of_targets[k]), torch.stack(judge(u_k, target)))
        torch.testing.assert_close(torch.stack(found.of_labels[k]), torch.stack(judge(u_k, mass)))
        assert not found.of_targets[k].gain.requires_grad


def test_a_step_along_the_meta_gradient_raises_the_gain_of_the_targets() -> None:
    s = scene(NETWORKS["wrn10_1"])
    before = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    gradients = torch.autograd.grad(before.surrogate, s.theta_g())
    with torch.no_grad():
        length = torch.nn.utils.get_total_norm(gradients)
        for p, gradient in zip(s.theta_g(), gradients, strict=True):
            p -= 0.1 * gradient / length
    after = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    assert sum(each.gain for each in after.of_targets) > sum(each.gain for each in before.of_targets)
    assert after.heldout_loss < before.heldout_loss


def test_the_gain_is_what_the_held_out_loss_falls_by_for_a_soft_term_beside_none() -> None:
    """By two look-aheads, with a little of the soft term and without: no derivative at all."""
    s = scene(NETWORKS["wrn10_1"], batch=4)
    images, labels = s.train_batch
    targets = [torch.randn(len(labels), 5, dtype=torch.float64).softmax(1) for _ in range(2)]

    def heldout(weight: float) -> float:
        s.student.zero_grad()
        _, exits = s.student(images)
        loss = F.cross_entropy(exits[-1], labels)
        for logits, target in zip(exits[:-1], targets, strict=True):
            loss = loss + weight * F.cross_entropy(logits, target)
        loss.backward()
        ahead = shared_look_ahead(s.student, s.train_batch, [], inner_lr=0.1)
        return heldout_gradient(s.student, ahead.fast_params, s.heldout_batch, heldout="final")[0].item()

    heldout(0.0)
    ahead = shared_look_ahead(s.student, s.train_batch, [], inner_lr=0.1)
    _, v = heldout_gradient(s.student, ahead.fast_params, s.heldout_batch, heldout="final")
    u = directional_derivatives(s.student, v, images, temperature=1.0)
    expected = sum(judge(u_k, target).gain.item() for u_k, target in zip(u, targets, strict=True))
    weight = 1e-5
    found = (heldout(-weight) - heldout(weight)) / (2 * weight * 0.1)
    assert abs(expected) > 1e-4
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_exits_own_outputs_gain_nothing() -> None:
    s = scene(NETWORKS["wrn10_1"])
    images, _ = s.train_batch
    direction = {name: torch.randn_like(p) for name, p in s.student.named_parameters()}
    u = directional_derivatives(s.student, direction, images, temperature=1.0)
    _, exits = s.student(images)
    for u_k, logits in zip(u, exits, strict=False):
        assert judge(u_k, logits.softmax(1)).gain.item() == pytest.approx(0, abs=1e-12)
        assert judge(u_k, F.one_hot(u_k.argmin(1), 5).double()).gain > 0
