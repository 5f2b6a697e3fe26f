"""Mutual learning: what student and peer learn from each other, and in which order."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .toys import CLASSES, RATES, Steps, batch, make, moved, network, setting, snapshot


def by_hand(learner: Tensor, other: Tensor, labels: Tensor, *, weight: float, temperature: float) -> float:
    """CE(y, p) + w tau^2 KL(q || p) from logits, in plain Python."""
    total = 0.0
    for ours, theirs, label in zip(learner.tolist(), other.tolist(), labels.tolist(), strict=True):

        def probabilities(row: list[float], tau: float) -> list[float]:
            powers = [math.exp(value / tau) for value in row]
            return [power / sum(powers) for power in powers]

        total -= math.log(probabilities(ours, 1.0)[label])
        for p, q in zip(probabilities(ours, temperature), probabilities(theirs, temperature), strict=True):
            total += weight * temperature**2 * q * math.log(q / p)
    return total / len(labels)


def answers(backbone: nn.Module) -> Tensor:
    """Training-mode logits of a copy."""
    return copy.deepcopy(backbone).train()(batch(1)[0]).detach()


def test_both_learn_from_label_and_other_by_the_same_formula() -> None:
    method = make("dml", {"mutual_weight": 0.5, "temperature": 2.0}).train()
    labels = batch(1)[1]
    student, peer = answers(method.student), answers(method.peer)
    found = [objective.loss(batch(1), RATES).total.item() for objective in method.objectives(0)]
    assert found[0] == pytest.approx(by_hand(student, peer, labels, weight=0.5, temperature=2.0), rel=1e-5)
    assert found[1] == pytest.approx(by_hand(peer, student, labels, weight=0.5, temperature=2.0), rel=1e-5)


def test_student_and_peer_exchanged_are_peer_and_student() -> None:
    one = make("dml", within=setting(network(), peer=network(seed=9))).train()
    two = make("dml", within=setting(network(seed=9), peer=network())).train()
    for mine, theirs in ((0, 1), (1, 0)):
        first, second = one.objectives(0)[mine], two.objectives(0)[theirs]
        a, b = first.loss(batch(), RATES).total, second.loss(batch(), RATES).total
        assert torch.equal(a, b)
        slopes = [
            torch.autograd.grad(loss, list(method.players()[objective.of].module.parameters()))
            for loss, method, objective in ((a, one, first), (b, two, second))
        ]
        assert all(torch.equal(x, y) for x, y in zip(*slopes, strict=True))


def test_the_peer_learns_from_the_student_as_it_is_after_its_step() -> None:
    method = make("dml")
    steps = Steps(method)
    stale = answers(method.student)
    first, second = method.objectives(0)
    steps.differentiate(first)
    steps.move("student")
    fresh, peer, labels = answers(method.student), answers(method.peer), batch(1)[1]
    found = steps.differentiate(second)["peer_loss"]
    assert found == pytest.approx(by_hand(peer, fresh, labels, weight=1.0, temperature=1.0), rel=1e-5)
    assert abs(found - by_hand(peer, stale, labels, weight=1.0, temperature=1.0)) > 1e-3


def test_a_step_shows_each_network_its_batch_once_and_the_student_a_second_time_without_a_trace() -> None:
    """Running statistics see each batch once; the peer's one answer serves both turns, the student is asked anew."""
    method = make("dml").train()
    networks = {"student": method.student, "peer": method.peer}
    given = batch(1)
    expected = {}
    for name, module in networks.items():
        expected[name] = copy.deepcopy(module).train()
        expected[name](given[0])
    asked = dict.fromkeys(networks, 0)

    def counting(name: str) -> Callable[..., None]:
        def hook(*args: object) -> None:
            asked[name] += 1

        return hook

    for name, module in networks.items():
        module.register_forward_hook(counting(name))
    for objective in method.objectives(0):
        objective.loss(given, RATES)
    assert asked == {"student": 2, "peer": 1}
    assert all(moved(networks[name], snapshot(expected[name])) == set() for name in networks)


def test_an_answer_of_the_peer_serves_its_own_images_only() -> None:
    """What it said to other images, or in another step, is not taken for this one."""
    method = make("dml").train()
    student, peer = method.objectives(0)
    alone = copy.deepcopy(method).objectives(0)[1].loss(batch(2), RATES).parts["peer_hard"]
    student.loss(batch(1), RATES)
    with torch.no_grad():
        assert torch.equal(peer.loss(batch(2), RATES).parts["peer_hard"], alone)
    copy.deepcopy(method)


def test_the_peer_is_saved_and_does_not_ship() -> None:
    method = make("dml")
    assert {name.split(".")[0] for name in method.state_dict()} == {"student", "peer"}
    assert method.deployable() is method.student
    assert method.exits(batch()[0])[0].shape == (8, CLASSES)
