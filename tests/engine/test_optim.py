"""Schedules are functions of the place in training; an optimizer's state goes out and in without a bit lost."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from metadistiller.config import Optim, milestone_epoch
from metadistiller.engine.optim import PlayerOptimizer, rate_factor
from metadistiller.methods import Player


def factor(optim: Optim, epoch: int, progress: float = 0.0, epochs: int = 200) -> float:
    return rate_factor(optim, epochs=epochs, epoch=epoch, progress=progress)


def test_the_paper_s_schedule_drops_after_80_and_140_of_200_epochs() -> None:
    found = [factor(Optim(), epoch) for epoch in (0, 79, 80, 139, 140, 199)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_fractions_scale_with_the_run_and_epochs_do_not() -> None:
    assert [milestone_epoch(0.4, epochs) for epochs in (10, 90, 200)] == [4, 36, 80]
    assert [milestone_epoch(m, epochs) for m, epochs in ((0.4, 1), (0.7, 1), (0.7, 10), (0.3, 10))] == [1, 1, 7, 3]
    assert [milestone_epoch(80, epochs) for epochs in (100, 200)] == [80, 80]
    by_epoch, by_fraction = Optim(milestones=(80, 140)), Optim(milestones=(0.4, 0.7))
    assert [factor(by_epoch, e) for e in range(200)] == [factor(by_fraction, e) for e in range(200)]


def test_cosine_starts_at_one_falls_all_the_way_and_is_half_at_half_time() -> None:
    optim = Optim(schedule="cosine")
    found = [factor(optim, epoch, 0.5) for epoch in range(200)]
    assert all(a > b for a, b in pairwise(found))
    assert factor(optim, 0) == 1
    assert factor(optim, 100) == pytest.approx(0.5)
    assert factor(optim, 199, 1.0) == pytest.approx(0, abs=1e-12)


def test_warm_up_rises_linearly_and_then_leaves_the_schedule_alone() -> None:
    optim = Optim(warmup_epochs=5, schedule="constant")
    assert [factor(optim, e, p) for e, p in ((0, 0.5), (1, 0.0), (2, 0.5), (5, 0.0), (99, 0.9))] == pytest.approx(
        [0.1, 0.2, 0.5, 1, 1]
    )
    assert factor(optim, 0) > 0


def quadratic() -> nn.Module:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.arange(6.0).view(2, 3))
    return module


def update(optimizer: PlayerOptimizer, loss: torch.Tensor, *, factor: float) -> torch.Tensor:
    optimizer.differentiate(loss)
    return optimizer.move(factor=factor)


def steps(module: nn.Module, optimizer: PlayerOptimizer, count: int) -> None:
    for step in range(count):
        update(optimizer, (module(torch.ones(1, 3)) ** 2).sum() * (step + 1), factor=0.5)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_update_is_torch_s_own(kind: str) -> None:
    optim = Optim(lr=0.01, momentum=0.8, nesterov=True, weight_decay=0.1)
    ours, theirs = quadratic(), quadratic()
    theirs.load_state_dict(ours.state_dict())
    steps(ours, PlayerOptimizer(Player(ours, kind), optim), 4)
    reference = (
        torch.optim.SGD(theirs.parameters(), lr=0.005, momentum=0.8, nesterov=True, weight_decay=0.1)
        if kind == "sgd"
        else torch.optim.Adam(theirs.parameters(), lr=0.005)
    )
    for step in range(4):
        reference.zero_grad()
        ((theirs(torch.ones(1, 3)) ** 2).sum() * (step + 1)).backward()
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_state_goes_out_and_in_without_a_bit_lost(kind: str) -> None:
    optim = Optim(lr=0.01)
    whole = quadratic()
    first = PlayerOptimizer(Player(whole, kind), optim)
    steps(whole, first, 3)
    other = quadratic()
    other.load_state_dict(whole.state_dict())
    second = PlayerOptimizer(Player(other, kind), optim)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    steps(whole, first, 3)
    steps(other, second, 3)
    assert torch.equal(whole.weight, other.weight)


def test_a_player_s_own_rate_is_taken_and_only_its_gradients_are_made() -> None:
    trunk, head = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = PlayerOptimizer(Player(head, "sgd", lr=0.25), Optim(lr=0.1))
    bias = head.bias.detach().clone()
    update(optimizer, head(trunk(torch.ones(1, 2))).sum(), factor=0.5)
    torch.testing.assert_close(head.bias, bias * (1 - 0.125 * 5e-4) - 0.125)
    assert all(p.grad is None for p in (*trunk.parameters(), *head.parameters()))


def test_clipping_bounds_the_step_and_the_norm_reported_is_the_one_before() -> None:
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    optim = Optim(lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.5)
    norm = update(PlayerOptimizer(Player(module, "sgd"), optim), module(torch.tensor([[3.0, 4.0]])).sum(), factor=1.0)
    assert norm.item() == pytest.approx(5)
    assert module.weight.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert math.isclose(module.weight[0, 0].item() / module.weight[0, 1].item(), 3 / 4, rel_tol=1e-5)


def test_parameters_that_join_later_take_the_steps_of_a_fresh_optimizer() -> None:
    """A method may train a part of a player first: what joins then moves as if it had just begun."""
    torch.manual_seed(0)
    module = nn.ModuleDict({name: nn.Linear(3, 3) for name in "abc"})
    optim = Optim(lr=0.1, momentum=0.9)
    whole = PlayerOptimizer(Player(module, "sgd"), optim)
    x = torch.randn(5, 3)
    # Two parts each time, and each time others: momenta of some and not of all.
    update(whole, (module["a"](x).square() + module["b"](x).square()).mean(), factor=1.0)
    fresh = copy.deepcopy(module["c"])
    alone = PlayerOptimizer(Player(fresh, "sgd"), optim)
    for _ in range(3):
        update(whole, (module["b"](x).square() + module["c"](x).square()).mean(), factor=1.0)
        update(alone, fresh(x).square().mean(), factor=1.0)
    torch.testing.assert_close(module["c"].weight, fresh.weight, rtol=0, atol=0)
    assert len(whole.state()) == 6
