"""The contract of a method, over every member of the family."""

import copy
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch

from metadistiller.data import Disjoint, Halves, Train
from metadistiller.errors import ConfigError, UnknownName
from metadistiller.lookup import find, table
from metadistiller.methods import Method

from . import toys
from .toys import (
    CLASSES,
    EPOCHS,
    PACKAGE,
    RATES,
    batch,
    batch_for,
    make,
    moved,
    network,
    parameters,
    setting,
    snapshot,
    turns,
)

METHODS = sorted(table(PACKAGE))
# Options that change which players or objectives a method has make it another member of the family.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fitnet-joint": ("fitnet", {"two_stage": False}),
    "metadistiller-own": ("metadistiller", {"lookahead": "own"}),
    "metadistiller-restrained": ("metadistiller", {"generator_kl_weight": 0.1}),
    "metadistiller-normed": ("metadistiller", {"generator_norm": "batch"}),
    "residual_metadistiller-own": ("residual_metadistiller", {"lookahead": "own"}),
    "metadistiller-labels": ("metadistiller", {"targets": "labels"}),
    "metadistiller-frozen": ("metadistiller", {"targets": "frozen"}),
    "metadistiller-uniform": ("metadistiller", {"targets": "uniform"}),
}
CASES = [*METHODS, *VARIANTS]


def build(name: str, options: Mapping[str, Any] | None = None, label_smoothing: float = 0.0) -> Method:
    member, fixed = VARIANTS.get(name, (name, {}))
    return make(member, {**fixed, **(options or {})}, setting(label_smoothing=label_smoothing))


@pytest.mark.parametrize("name", CASES)
def test_its_players_own_disjoint_parameters_and_together_all_that_are_to_move(name: str) -> None:
    method = build(name)
    players = method.players()
    assert "student" in players
    owned = [id(p) for player in players.values() for p in player.module.parameters()]
    assert len(owned) == len(set(owned))
    # What a method holds but never moves says so.
    assert set(owned) == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_objective_moves_its_player_and_nobody_else(name: str, epoch: int) -> None:
    method = build(name).train()
    # Of players that wait: what their gradients were when they were made.
    waiting: dict[str, list[torch.Tensor | None]] = {}
    for objective, losses in turns(method, epoch):
        assert losses.total.ndim == 0
        assert all(not part.requires_grad and part.isfinite() for part in losses.parts.values())
        # Without `inputs` a gradient would flow wherever there is a path: there must be none to another player.
        losses.total.backward()
        params = parameters(method, objective.of)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in params)
        for other in method.players().keys() - {objective.of}:
            kept = waiting.get(other, [None] * len(parameters(method, other)))
            for p, gradient in zip(parameters(method, other), kept, strict=True):
                assert p.grad is None if gradient is None else torch.equal(p.grad, gradient)
        if objective.waits:
            waiting[objective.of] = [None if p.grad is None else p.grad.clone() for p in params]
        else:
            method.players()[objective.of].module.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", CASES)
def test_the_first_objective_is_the_student_on_the_whole_training_set(name: str) -> None:
    method = build(name).train()
    for epoch in range(EPOCHS):
        first = method.objectives(epoch)[0]
        assert (first.of, first.stream, first.every_steps) == ("student", Train(), 1)
        assert "loss" in first.loss(batch(1), RATES).parts


@pytest.mark.parametrize("name", CASES)
def test_exits_end_with_the_answer_of_the_network_that_ships(name: str) -> None:
    method = build(name).eval()
    images, _ = batch()
    exits = method.exits(images)
    assert all(logits.shape == (8, CLASSES) for logits in exits)
    assert torch.equal(exits[-1], method.deployable()(images))


@pytest.mark.parametrize("name", CASES)
def test_a_student_with_exits_is_there_where_there_are_exits(name: str) -> None:
    method = build(name).eval()
    images, _ = batch()
    exits, student = method.exits(images), method.multi_exit()
    assert (student is None) == (len(exits) == 1)
    if student is not None:
        assert student.backbone is method.deployable()
        assert all(torch.equal(a, b) for a, b in zip(student(images)[1], exits, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_what_ships_is_the_plain_network_and_nothing_more(name: str) -> None:
    shipped, plain = build(name).deployable().state_dict(), network().state_dict()
    assert {key: value.shape for key, value in shipped.items()} == {key: value.shape for key, value in plain.items()}


@pytest.mark.parametrize("name", CASES)
def test_soft_targets_are_distributions_one_for_each_early_exit_or_none_at_all(name: str) -> None:
    method = build(name).eval()
    images, _ = batch()
    with torch.no_grad():
        targets = method.soft_targets(images)
        exits = method.exits(images)
    assert len(targets) in (0, len(exits) - 1)
    for target in targets:
        torch.testing.assert_close(target.sum(1), torch.ones(8))
        assert (target >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_options_are_frozen_and_a_wrong_one_is_named(name: str) -> None:
    member = find(PACKAGE, "method", name)
    with pytest.raises(UnknownName, match="temprature"):
        member.configure({"temprature": 2})
    options = member.configure({})
    for field in (*fields(options), None):
        with pytest.raises(FrozenInstanceError):
            setattr(options, field.name if field else "anything", 1)


@pytest.mark.parametrize("name", CASES)
def test_what_a_method_adds_depends_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one = build(name)
    torch.rand(17)
    two = build(name)
    shipped = {value.data_ptr() for value in one.deployable().state_dict().values()}
    added = {key: value for key, value in one.state_dict().items() if value.data_ptr() not in shipped}
    assert added or name in ("plain", "kd", "attention_transfer")
    for key, value in added.items():
        assert torch.equal(value, two.state_dict()[key])


@pytest.mark.parametrize("name", CASES)
def test_a_copy_of_a_method_shares_nothing_with_it(name: str) -> None:
    """Nothing that a method holds on to besides its parameters may lead back to the original."""
    method = build(name).eval()
    copied = copy.deepcopy(method)
    images, _ = batch()
    with torch.no_grad():
        before = [*copied.exits(images), *copied.soft_targets(images)]
        for parameter in method.parameters():
            parameter.zero_()
        after = [*copied.exits(images), *copied.soft_targets(images)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_label_smoothing_reaches_every_hard_term(name: str) -> None:
    """Of the student one for each exit; of another player as many as it has."""
    smooth, sharp = build(name, label_smoothing=0.3).train(), build(name).train()
    smooth.load_state_dict(sharp.state_dict())
    for (ours, a), (_, b) in zip(turns(smooth, 1), turns(sharp, 1), strict=True):
        hard = [key for key in a.parts if key.endswith("_hard")]
        assert ours.of != "student" or len(hard) == len(smooth.exits(batch()[0]))
        assert all(not torch.isclose(a.parts[key], b.parts[key]) for key in hard)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("epoch", [0, 5])
def test_it_learns_from_mixed_labels_and_one_hot_is_the_label(
    name: str, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard, soft = build(name).train(), build(name).train()
    soft.load_state_dict(hard.state_dict())
    expected = [losses.total for _, losses in turns(hard, epoch)]
    plain = batch_for

    def one_hot(objective: Any) -> Any:
        found = plain(objective)
        if objective.stream != Train():
            return found
        return found[0], torch.nn.functional.one_hot(found[1], CLASSES).float()

    monkeypatch.setattr(toys, "batch_for", one_hot)
    for (_, losses), total in zip(turns(soft, epoch), expected, strict=True):
        torch.testing.assert_close(losses.total, total, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_class_weights_reach_every_hard_term(name: str) -> None:
    member, fixed = VARIANTS.get(name, (name, {}))
    weights = torch.linspace(0.2, 3, CLASSES)
    ours, plain = make(member, fixed, setting(class_weights=weights)).train(), build(name).train()
    ours.load_state_dict(plain.state_dict())
    for (_, a), (_, b) in zip(turns(ours, 1), turns(plain, 1), strict=True):
        assert all(not torch.isclose(a.parts[key], b.parts[key]) for key in a.parts if key.endswith("_hard"))


@pytest.mark.parametrize("name", CASES)
def test_no_two_objectives_of_a_step_record_the_same_part(name: str) -> None:
    method = build(name).train()
    for epoch in range(EPOCHS):
        method.zero_grad(set_to_none=True)
        parts = [key for _, losses in turns(method, epoch) for key in losses.parts]
        assert len(parts) == len(set(parts))


@pytest.mark.parametrize("name", CASES)
def test_its_state_is_all_that_it_needs(name: str) -> None:
    """A method built again and given the state dict answers and learns as the first one does."""
    method = build(name).train()
    with torch.no_grad():
        for step, value in enumerate(method.state_dict().values()):
            if value.is_floating_point():
                value.mul_(1 + 0.01 * (step % 7))
    again = build(name).train()
    again.load_state_dict(method.state_dict())
    for epoch in (0, 5):
        for (_, a), (_, b) in zip(turns(method, epoch), turns(again, epoch), strict=True):
            assert torch.equal(a.total, b.total)
    images, _ = batch()
    with torch.no_grad():
        one, two = ([*m.eval().exits(images), *m.soft_targets(images)] for m in (method, again))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# -- how the three self-boosting methods hang together -----------------------------------------------------------------


def student_loss(method: Method) -> torch.Tensor:
    return method.train().objectives(1)[0].loss(batch(), RATES).total


def twins(*builds: tuple[str, Mapping[str, Any]]) -> list[Method]:
    """Methods that start from the same student."""
    methods = [build(name, options) for name, options in builds]
    state = methods[0].deployable().state_dict()
    for method in methods[1:]:
        method.deployable().load_state_dict(state)
    return methods


@pytest.mark.parametrize("name", ["self_distillation", "metadistiller"])
def test_alpha_one_is_deep_supervision(name: str) -> None:
    method, dsn = twins((name, {"alpha": 1.0}), ("dsn", {}))
    assert torch.equal(student_loss(method), student_loss(dsn))


def test_targets_that_are_the_final_output_make_self_distillation() -> None:
    """MetaDistiller with its generator replaced by S_K is self-distillation."""
    md, sd = twins(("metadistiller", {"temperature": 2.0}), ("self_distillation", {"temperature": 2.0}))
    md.boosting._make_targets = lambda features, logits: [logits[-1].detach()] * 3
    assert torch.equal(student_loss(md), student_loss(sd))


def test_no_gradient_reaches_the_final_output_through_the_targets() -> None:
    """Eq. 3 treats T_k as a constant: with alpha = 0 the exits pull on the trunk, never on the head."""
    method = build("self_distillation", {"alpha": 0.0}).train()
    images, labels = batch()
    head = method.deployable().fc
    total = method.objectives(0)[0].loss((images, labels), RATES).total
    (whole,) = torch.autograd.grad(total, head.weight)
    again = copy.deepcopy(method).train()
    final = torch.nn.functional.cross_entropy(again.exits(images)[-1], labels)
    (hard,) = torch.autograd.grad(final, again.deployable().fc.weight)
    torch.testing.assert_close(whole, hard)


def test_a_generator_update_leaves_the_student_bitwise_alone() -> None:
    method = build("metadistiller-own").train()
    _, objective = method.objectives(0)
    before = snapshot(method.boosting.student)
    losses = objective.loss(batch_for(objective), RATES)
    losses.total.backward(inputs=list(method.generator.parameters()))
    torch.optim.Adam(method.generator.parameters(), lr=0.1).step()
    assert moved(method.boosting.student, before) == set()
    assert all(p.grad is None for p in method.boosting.student.parameters())


def test_a_student_update_leaves_the_generator_s_weights_alone() -> None:
    method = build("metadistiller").train()
    before = {name: value.clone() for name, value in method.generator.named_parameters()}
    student_loss(method).backward()
    for name, value in method.generator.named_parameters():
        assert value.grad is None
        assert torch.equal(before[name], value)


@pytest.mark.parametrize("name", ["metadistiller", "metadistiller-own"])
def test_zeta_is_the_student_s_current_rate(name: str) -> None:
    """The meta-gradient is linear in zeta to first order and exactly zero at zeta = 0."""
    method = build(name).train()
    first, second = method.objectives(0)

    def size(zeta: float) -> float:
        rates = {"student": zeta, "generator": 1.0}
        method.zero_grad(set_to_none=True)
        first.loss(batch(1), rates).total.backward()
        found = torch.autograd.grad(second.loss(batch_for(second), rates).total, parameters(method, "generator"))
        return torch.cat([g.flatten() for g in found]).norm().item()

    assert size(0.0) == 0.0
    assert size(2e-6) == pytest.approx(2 * size(1e-6), rel=1e-2)


def test_meta_epochs_and_steps_follow_their_options() -> None:
    method = build("metadistiller", {"meta_every_epochs": 3, "meta_every_steps": 4, "heldout_batch_size": 7})
    assert [len(method.objectives(epoch)) for epoch in range(7)] == [2, 1, 1, 2, 1, 1, 2]
    student, generator = method.objectives(3)
    assert (student.every_steps, student.waits) == (1, True)
    assert (generator.every_steps, generator.waits) == (4, False)
    assert generator.stream == Disjoint(batch_size=7)
    # With nobody to read its gradient, the student has nothing to wait for.
    assert not method.objectives(1)[0].waits
    own = build("metadistiller-own", {"heldout_batch_size": 7})
    assert own.objectives(0)[1].stream == Halves(heldout_batch_size=7)
    assert not any(objective.waits for objective in own.objectives(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("metadistiller", {"alpha": 1.5}, r"method\.alpha is 1\.5"),
        ("metadistiller", {"temperature": 0.0}, r"method\.temperature is 0\.0"),
        ("metadistiller", {"meta_every_epochs": 0}, r"method\.meta_every_epochs is 0"),
        ("metadistiller", {"meta_every_steps": 0}, r"method\.meta_every_steps is 0"),
        ("metadistiller", {"generator_lr": -1.0}, r"method\.generator_lr is -1\.0"),
        ("metadistiller", {"generator_width": "mirrored"}, r"method\.generator_width is 'mirrored'"),
        ("metadistiller", {"generator_width": 0}, r"method\.generator_width is 0"),
        ("metadistiller", {"heldout": "last"}, r"method\.heldout is 'last'"),
        ("metadistiller", {"lookahead": "halves"}, r"method\.lookahead is 'halves'; take shared or own"),
        (
            "metadistiller",
            {"derivative": "exact"},
            r"method\.derivative is 'exact'; take auto or forward_mode or double_backward or finite_diff",
        ),
        ("metadistiller", {"generator_norm": "layer"}, r"method\.generator_norm is 'layer'; take none or batch"),
        ("metadistiller", {"generator_warmup_epochs": -1}, r"method\.generator_warmup_epochs is -1"),
        (
            "metadistiller",
            {"generator_kl_weight": 0.1, "generator_warmup_epochs": 2},
            r"method\.generator_kl_weight is 0\.1; it would pull what labels have taught back to uniform",
        ),
        ("metadistiller", {"generator_kl_weight": float("inf")}, r"method\.generator_kl_weight is inf; take 0 or more"),
        ("metadistiller", {"generator_kl_weight": -1.0}, r"method\.generator_kl_weight is -1\.0; take 0 or more"),
        ("metadistiller", {"meta_precision": "bfloat16"}, r"method\.meta_precision is 'bfloat16'; take run or float32"),
        ("metadistiller", {"heldout_batch_size": 0}, r"method\.heldout_batch_size is 0"),
        ("self_distillation", {"alpha": -0.1}, r"method\.alpha is -0\.1"),
        ("self_distillation", {"inner_width": 0}, r"method\.inner_width is 0"),
        ("metadistiller", {"targets": "teacher"}, r"method\.targets is 'teacher'"),
        ("dsn", {"exit_weight": 0.0}, r"method\.exit_weight is 0\.0"),
        ("kd", {"alpha": 1.1}, r"method\.alpha is 1\.1"),
        ("kd", {"temperature": -1.0}, r"method\.temperature is -1\.0"),
        ("fitnet", {"hint_weight": 0.0}, r"method\.hint_weight is 0\.0"),
        ("fitnet", {"hint_epochs": 0.0}, r"method\.hint_epochs is 0\.0"),
        ("fitnet", {"alpha": 2.0}, r"method\.alpha is 2\.0"),
        ("attention_transfer", {"attention_weight": 0.0}, r"method\.attention_weight is 0\.0"),
        ("attention_transfer", {"power": 0.5}, r"method\.power is 0\.5"),
        ("dml", {"mutual_weight": 0.0}, r"method\.mutual_weight is 0\.0"),
        ("dml", {"temperature": 0.0}, r"method\.temperature is 0\.0"),
    ],
)
def test_options_out_of_range_are_refused_with_the_value(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(PACKAGE, "method", name).configure(options)


def test_the_exits_weight_of_dsn_scales_the_exits_alone() -> None:
    half, one = twins(("dsn", {"exit_weight": 0.5}), ("dsn", {}))
    found = half.train().objectives(0)[0].loss(batch(), RATES)
    hard = sum(found.parts[f"exit_{k}_hard"] for k in (1, 2, 3))
    torch.testing.assert_close(found.total, found.parts["final_hard"] + 0.5 * hard)
    torch.testing.assert_close(student_loss(one), found.parts["final_hard"] + hard)
