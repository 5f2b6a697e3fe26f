"""The look-ahead step that the student's own gradient is: the same as one of its own on the same batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metadistiller.errors import ConfigError
from metadistiller.losses import self_boosting_loss
from metadistiller.meta import LookAhead, look_ahead, meta_loss_from, shared_look_ahead

from .oracle import NETWORKS, Scene, double_backward, relative_error, scene

PAPER = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0}
OTHER = {"inner_lr": 0.02, "alpha": 0.2, "temperature": 3.0}


def shared(s: Scene, *, inner_lr: float, alpha: float, temperature: float) -> LookAhead:
    """After a backward pass as training does it, with the student's parameters where they were."""
    images, labels = s.train_batch
    features, exits = s.student(images)
    targets = s.generator([feature.detach() for feature in features], exits[-1].detach())
    constants = [target.detach() for target in targets]
    loss, _ = self_boosting_loss(exits, labels, constants, alpha=alpha, temperature=temperature)
    loss.backward(inputs=list(s.student.parameters()))
    return shared_look_ahead(s.student, s.train_batch, targets, inner_lr=inner_lr)


def meta_gradient(s: Scene, ahead: LookAhead, **settings: float) -> list[Tensor]:
    found = meta_loss_from(ahead, s.student, s.heldout_batch, **settings)
    return list(torch.autograd.grad(found.surrogate, s.theta_g(), retain_graph=True))


@pytest.mark.parametrize(
    ("network", "more"),
    [*((name, {}) for name in NETWORKS), ("wrn10_1", {"residual": True}), ("wrn10_1", {"norm": "batch"})],
)
def test_is_the_step_of_its_own_on_the_same_batch(network: str, more: dict[str, Any]) -> None:
    s = scene(NETWORKS[network], width=6, batch=4, **more)
    for settings in (PAPER, OTHER):
        s.student.zero_grad()
        ours = shared(s, **settings)
        own = look_ahead(s.student, s.generator, s.train_batch, **settings)
        assert ours.fast_params.keys() == own.fast_params.keys()
        for name, value in own.fast_params.items():
            torch.testing.assert_close(ours.fast_params[name], value, rtol=1e-12, atol=1e-14)
            assert not ours.fast_params[name].requires_grad
        assert relative_error(meta_gradient(s, ours, **settings), meta_gradient(s, own, **settings)) < 1e-12


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("network", ["resnet10", "wrn10_1"])
def test_equals_double_backward(network: str, residual: bool) -> None:
    s = scene(NETWORKS[network], residual=residual)
    assert relative_error(meta_gradient(s, shared(s, **PAPER), **PAPER), double_backward(s, **PAPER)) < 1e-10


def test_a_restraint_wants_a_reference() -> None:
    s = scene(NETWORKS["wrn10_1"], batch=4)
    with pytest.raises(ConfigError, match=r"kl_weight is 0\.1, .* give shared_look_ahead reference="):
        meta_loss_from(shared(s, **PAPER), s.student, s.heldout_batch, kl_weight=0.1, **PAPER)


def test_leaves_parameters_and_gradients_as_they_are() -> None:
    s = scene(NETWORKS["wrn10_1"])
    before = [p.detach().clone() for p in s.student.parameters()]
    ahead = shared(s, **PAPER)
    gradients = [p.grad.clone() for p in s.student.parameters()]
    running = [value.clone() for value in s.student.buffers()]
    meta_gradient(s, ahead, **PAPER)
    for p, value, gradient in zip(s.student.parameters(), before, gradients, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(p.grad, gradient)
    assert all(torch.equal(a, b) for a, b in zip(s.student.buffers(), running, strict=True))


def test_parameters_without_a_gradient_stay() -> None:
    s = scene(NETWORKS["wrn10_1"])
    shared(s, **PAPER)
    s.student.backbone.conv1.weight.grad = None
    ahead = shared_look_ahead(s.student, s.train_batch, [], inner_lr=0.1)
    stayed = {name for name, p in s.student.named_parameters() if torch.equal(ahead.fast_params[name], p)}
    assert stayed == {"backbone.conv1.weight"}


def test_without_the_student_s_gradient_there_is_none() -> None:
    s = scene(NETWORKS["wrn10_1"])
    with pytest.raises(AssertionError, match="gradient must be there"):
        shared_look_ahead(s.student, s.train_batch, [], inner_lr=0.1)
