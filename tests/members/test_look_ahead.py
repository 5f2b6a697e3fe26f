"""MetaDistiller's two look-aheads: what the generator learns, and that the student learns the same beside it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equations.oracle import Scene, cosine, double_backward, relative_error
from metadistiller.meta import meta_loss
from metadistiller.methods import Method

from .toys import RATES, Steps, batch, batch_for, make, moved, parameters, setting, snapshot, turns

TRAIN, HELDOUT = batch(1), batch(2)
LOOKAHEADS = ("shared", "own")


def build(lookahead: str = "shared", label_smoothing: float = 0.0, **options: Any) -> Method:
    within = setting(label_smoothing=label_smoothing)
    return make("metadistiller", {"lookahead": lookahead, **options}, within).train()


def wide(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].double(), pair[1]


def expected(method: Method, *batches: tuple[Tensor, Tensor], **changes: Any) -> list[Tensor]:
    """The generator's gradient by double backward, at the student as it is."""
    s = Scene(method.boosting.student, method.generator, *batches)
    return double_backward(s, **{"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0, **changes})


def generator_gradient(method: Method) -> list[Tensor]:
    """Of a step with nobody moved."""
    for objective, losses in turns(method, 0):
        if objective.of == "generator":
            return list(torch.autograd.grad(losses.total, parameters(method, "generator")))
    raise AssertionError("no generator in this step")


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("changes", [{}, {"alpha": 0.2, "temperature": 2.0, "heldout": "all", "label_smoothing": 0.2}])
def test_the_generator_s_gradient_is_that_of_double_backward(lookahead: str, changes: dict[str, Any]) -> None:
    method = build(lookahead, **changes).double()
    objectives = method.objectives(0)
    if lookahead == "shared":
        objectives[0].loss(wide(TRAIN), RATES).total.backward()
    given = wide(HELDOUT) if lookahead == "shared" else (wide(TRAIN), wide(HELDOUT))
    ours = torch.autograd.grad(objectives[1].loss(given, RATES).total, parameters(method, "generator"))
    assert relative_error(list(ours), expected(method, wide(TRAIN), wide(HELDOUT), **changes)) < 1e-10


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("name", ["metadistiller", "residual_metadistiller"])
def test_what_restrains_its_targets_is_in_the_generator_s_gradient(name: str, lookahead: str) -> None:
    options = {"lookahead": lookahead, "generator_kl_weight": 0.5, "temperature": 2.0}
    method = make(name, options).train().double()
    with torch.no_grad():
        for p in method.generator.parameters():
            p.add_(0.1)  # away from the reference, where nothing pulls
    objectives = method.objectives(0)
    if lookahead == "shared":
        objectives[0].loss(wide(TRAIN), RATES).total.backward()
    given = wide(HELDOUT) if lookahead == "shared" else (wide(TRAIN), wide(HELDOUT))
    ours = list(torch.autograd.grad(objectives[1].loss(given, RATES).total, parameters(method, "generator")))

    def meta_gradient(kl_weight: float) -> list[Tensor]:
        both = method.boosting.student, method.generator, wide(TRAIN), wide(HELDOUT)
        found = meta_loss(*both, inner_lr=0.1, alpha=0.5, temperature=2.0, kl_weight=kl_weight)
        return list(torch.autograd.grad(found.surrogate, parameters(method, "generator")))

    assert relative_error(ours, meta_gradient(0.5)) < 1e-10
    assert relative_error(ours, meta_gradient(0.0)) > 0.01


@pytest.mark.parametrize("name", ["metadistiller", "residual_metadistiller"])
def test_a_strong_restraint_leaves_targets_where_they_began(name: str) -> None:
    def away(kl_weight: float) -> list[float]:
        method = make(name, {"meta_every_epochs": 1, "generator_lr": 0.05, "generator_kl_weight": kl_weight})
        steps = Steps(method)
        for epoch in range(20):
            steps.step(epoch)
        images, _ = TRAIN
        began = F.softmax(method.generator.reference(method.exits(images)[-1]), dim=1)
        return [(target - began).abs().sum(1).mean().item() for target in method.soft_targets(images)]

    assert all(each > 0.5 for each in away(0.0))
    assert all(each < 0.05 for each in away(30.0))


def test_the_student_of_a_step_is_bitwise_the_same_with_either() -> None:
    """The generator's turn does not touch it, whether it comes before the student's move or after."""
    shared, own = Steps(build("shared")), Steps(build("own"))
    assert shared.step(0)["loss"] == own.step(0)["loss"]
    assert moved(shared.method.boosting.student, snapshot(own.method.boosting.student)) == set()
    assert moved(shared.method.generator, snapshot(own.method.generator)) != set()


def test_the_student_of_a_step_is_bitwise_that_without_a_generator_s_turn() -> None:
    with_turn, without = Steps(build()), Steps(build())
    with_turn.step(0)
    without.step(1)
    assert moved(with_turn.method.boosting.student, snapshot(without.method.boosting.student)) == set()
    assert not with_turn.method.objectives(1)[0].waits


def first_gradient(steps: Steps, player: str) -> list[Tensor]:
    """What Adam's first step has seen."""
    return [value / (1 - 0.9) for key, value in steps.optimizers[player].state().items() if key.endswith("exp_avg")]


def test_the_generator_learns_at_the_student_before_its_move() -> None:
    method = build()
    before = copy.deepcopy(method)
    steps = Steps(method)
    steps.step(0)
    found = first_gradient(steps, "generator")
    assert relative_error(found, expected(before, TRAIN, HELDOUT, inner_lr=0.02)) < 1e-3
    # A twin of the moved student with the generator of before would have taught it something else.
    before.boosting.load_state_dict(method.boosting.state_dict())
    assert relative_error(found, expected(before, TRAIN, HELDOUT, inner_lr=0.02)) > 1e-2


def test_with_its_own_the_generator_learns_at_the_student_after_its_move() -> None:
    method = build("own")
    before = copy.deepcopy(method)
    steps = Steps(method)
    steps.step(0)
    before.boosting.load_state_dict(method.boosting.state_dict())
    found = first_gradient(steps, "generator")
    assert relative_error(found, expected(before, TRAIN, HELDOUT, inner_lr=0.02)) < 1e-3


def test_a_student_that_does_not_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    hurried = tuple(replace(objective, waits=False) for objective in method.objectives(0))
    monkeypatch.setattr(method, "objectives", lambda epoch: hurried)
    with pytest.raises(AssertionError, match="gradient must be there"):
        Steps(method).step(0)


def test_each_look_ahead_belongs_to_one_step() -> None:
    method = build()
    _, second = method.objectives(0)
    generator_gradient(method)
    with pytest.raises(AssertionError, match="comes first in each step"):
        second.loss(batch_for(second), RATES)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_a_step_shows_each_batch_to_running_statistics_once(lookahead: str) -> None:
    """The student's see the training batch, whatever the look-ahead runs on."""
    method = build(lookahead)
    alone = copy.deepcopy(method)
    for _, losses in turns(method, 0):
        assert losses.total.isfinite()
    alone.boosting.student(TRAIN[0])
    assert moved(method.boosting.student, snapshot(alone.boosting.student)) == set()


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_options_of_the_derivative_reach_it(lookahead: str) -> None:
    exact, near = (
        generator_gradient(build(lookahead, derivative=derivative))
        for derivative in ("forward_mode", "finite_differences")
    )
    assert cosine(near, exact) > 0.99
    assert not all(torch.equal(a, b) for a, b in zip(near, exact, strict=True))


def test_a_method_can_be_copied_between_two_turns() -> None:
    method = build()
    student, _ = method.objectives(0)
    student.loss(TRAIN, RATES)
    copied = copy.deepcopy(method)
    assert torch.equal(
        copied.objectives(1)[0].loss(TRAIN, RATES).total, method.objectives(1)[0].loss(TRAIN, RATES).total
    )


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["run", "float32"])
def test_a_look_ahead_of_its_own_is_of_the_precision_that_was_asked_for(precision: str) -> None:
    method = build("own", meta_precision=precision)
    _, objective = method.objectives(0)

    def gradient(autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = objective.loss(batch_for(objective), RATES).total
        return list(torch.autograd.grad(total, parameters(method, "generator")))

    outside, inside = gradient(False), gradient(True)
    same = all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert same == (precision == "float32")
    # Eight bits, and a toy of four channels.
    assert cosine(inside, outside) > 0.8


def test_a_shared_look_ahead_goes_on_from_a_bfloat16_step_in_the_precision_that_was_asked_for() -> None:
    found = {}
    for precision in ("run", "float32"):
        method = build(meta_precision=precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found[precision] = generator_gradient(method)
    full = generator_gradient(build())
    assert not torch.equal(found["run"][0], found["float32"][0])
    for gradient in found.values():
        assert all(part.dtype == torch.float32 for part in gradient)
        assert cosine(gradient, full) > 0.8
