"""residual_metadistiller: targets that begin as self-distillation, and a generator that begins with labels."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metadistiller.data import Train
from metadistiller.errors import ConfigError
from metadistiller.methods import Method
from metadistiller.nn import LabelGenerator, stage_shapes

from .toys import RATES, SIZE, Steps, batch, make, moved, network, setting, snapshot, turns

NAMES = ("metadistiller", "residual_metadistiller")


def student(method: Method) -> dict[str, torch.Tensor]:
    return snapshot(method.players()["student"].module)


def the_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def after(method: Method, epochs: int = 3) -> dict[str, torch.Tensor]:
    steps = Steps(method)
    for epoch in range(epochs):
        steps.step(epoch)
    return student(method)


# -- targets that begin from the final output --------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_a_frozen_generator_it_is_self_distillation_bit_for_bit(temperature: float) -> None:
    options = {"alpha": 0.3, "temperature": temperature}
    ours = make("residual_metadistiller", {"targets": "frozen", **options})
    assert the_same(after(ours), after(make("self_distillation", options)))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_its_first_targets_are_the_final_output_s(norm: str) -> None:
    images, _ = batch()
    method = make("residual_metadistiller", {"temperature": 2.0, "generator_norm": norm}).eval()
    expected = F.softmax(method.exits(images)[-1] / 2, dim=1)
    targets = method.soft_targets(images)
    assert len(targets) == 3
    assert all(torch.equal(target, expected) for target in targets)


@pytest.mark.parametrize("lookahead", ["shared", "own"])
def test_its_generator_moves_the_targets_away_from_there(lookahead: str) -> None:
    method = make("residual_metadistiller", {"generator_lr": 0.01, "lookahead": lookahead})
    steps = Steps(method)
    steps.step(0)
    assert not torch.equal(method.generator.scales.detach(), torch.ones(3))
    assert all(head.fc.weight.abs().max() > 0 for head in method.generator.heads)
    # Heads that give 0 hand no gradient on; from the second step on everything learns.
    before = snapshot(method.generator)
    steps.step(0)
    assert {name for name, _ in method.generator.named_parameters() if name.endswith("weight")} <= moved(
        method.generator, before
    )
    images, _ = batch()
    final = F.softmax(method.exits(images)[-1], dim=1)
    assert all(not torch.equal(target, final) for target in method.soft_targets(images))


@pytest.mark.parametrize("options", [{}, {"lookahead": "own"}, {"targets": "labels"}])
def test_no_gradient_of_the_generator_s_reaches_the_student(options: dict[str, Any]) -> None:
    method = make("residual_metadistiller", options).train()
    params = list(method.boosting.student.parameters())
    for objective, losses in turns(method, 0):
        if objective.of == "generator":
            assert all(g is None for g in torch.autograd.grad(losses.total, params, allow_unused=True))


def test_its_student_begins_as_everybody_s() -> None:
    theirs, ours = (make(name) for name in NAMES)
    assert the_same(student(ours), student(theirs))
    # So does its generator, but for what it adds to the final output.
    a, b = (method.generator.state_dict() for method in (ours, theirs))
    assert a.keys() - b.keys() == {"scales"}
    changed = {name for name, value in b.items() if not torch.equal(value, a[name])}
    assert changed == {f"heads.{k}.fc.{part}" for k in range(3) for part in ("weight", "bias")}


def test_uniform_targets_do_not_begin_from_the_final_output() -> None:
    with pytest.raises(ConfigError, match=r"method\.targets is 'uniform'; .*the method metadistiller"):
        make("residual_metadistiller", {"targets": "uniform"})


@pytest.mark.parametrize("name", NAMES)
def test_which_of_the_two_it_is_only_the_name_says(name: str) -> None:
    with pytest.raises(ConfigError, match="residual"):
        make(name, {"residual": name == "metadistiller"})


def test_a_residual_generator_wants_the_final_output() -> None:
    backbone = network()
    generator = LabelGenerator(stage_shapes(backbone, SIZE), 5, residual=True)
    with pytest.raises(AssertionError, match="begin from the final output"):
        generator([torch.randn(2, *shape) for shape in stage_shapes(backbone, SIZE)])


# -- a generator that is taught by labels first ------------------------------------------------------------------------


def build(**options: Any) -> Method:
    return make("metadistiller", options)


@pytest.mark.parametrize("lookahead", ["shared", "own"])
def test_in_the_first_epochs_labels_teach_at_every_step(lookahead: str) -> None:
    schedule = {"meta_every_epochs": 3, "meta_every_steps": 4, "lookahead": lookahead}
    warmed, meta = build(generator_warmup_epochs=4, **schedule), build(**schedule)
    for epoch in range(8):
        ours, theirs = (
            [(o.of, o.stream, o.every_steps, o.waits) for o in method.objectives(epoch)] for method in (warmed, meta)
        )
        label = [("student", Train(), 1, False), ("generator_warmup", Train(), 1, False)]
        assert ours == (label if epoch < 4 else theirs)


@pytest.mark.parametrize("name", NAMES)
def test_with_nothing_but_warm_up_it_is_the_ablation_by_labels(name: str) -> None:
    ours = make(name, {"generator_warmup_epochs": 3, "meta_every_epochs": 5})
    theirs = make(name, {"targets": "labels", "meta_every_epochs": 1})
    assert the_same(after(ours), after(theirs))
    assert the_same(snapshot(ours.generator), snapshot(theirs.generator))


def test_afterwards_it_goes_on_by_the_meta_gradient_alone_with_an_adam_that_begins_there() -> None:
    """Whose first step is as long as its rate in every weight, whatever gradients of labels were."""
    method = build(generator_warmup_epochs=1, meta_every_epochs=1)
    steps = Steps(method)
    for _ in range(3):
        assert "generator_loss" in steps.step(0)
    before = {name: p.detach().clone() for name, p in method.generator.named_parameters()}
    parts = steps.step(1)
    assert "heldout_loss" in parts
    assert "generator_loss" not in parts
    lengths = torch.cat([(p - before[name]).abs().flatten() for name, p in method.generator.named_parameters()])
    assert lengths.median().item() == pytest.approx(0.001, rel=0.05)


def test_labels_for_the_whole_run_leave_nothing_to_the_meta_gradient() -> None:
    with pytest.raises(ConfigError, match=r"method\.generator_warmup_epochs is 10; the run has 10, .* targets labels"):
        build(generator_warmup_epochs=10)
    assert build(generator_warmup_epochs=9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_small_correction_is_not_lost_where_the_student_s_logits_are_bfloat16(dtype: torch.dtype) -> None:
    method = make("residual_metadistiller").train()
    images, _ = batch()
    with torch.no_grad():
        method.generator.scales.fill_(1.001)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        features, exits = method.boosting.student(images)
        assert exits[-1].dtype == dtype
        corrected = method.generator([feature.detach() for feature in features], exits[-1].detach())
    torch.testing.assert_close(corrected[0], 1.001 * exits[-1].detach().float())
    assert not torch.equal(corrected[0], exits[-1].detach().float())


# -- normalised maps ---------------------------------------------------------------------------------------------------


def test_normalised_maps_have_mean_0_and_variance_1_in_each_channel_of_a_batch() -> None:
    method = build(generator_norm="batch").train()
    features, _ = method.boosting.student(batch()[0])
    for generated in method.generator.maps([feature.detach() for feature in features]):
        torch.testing.assert_close(generated.mean((0, 2, 3)), torch.zeros(generated.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            generated.var((0, 2, 3), correction=0), torch.ones(generated.shape[1]), atol=1e-2, rtol=0
        )


def test_normalisation_draws_nothing_and_adds_nothing_but_itself() -> None:
    plain, normed = (build(generator_norm=norm).generator.state_dict() for norm in ("none", "batch"))
    assert all(torch.equal(normed[key], value) for key, value in plain.items())
    assert {key.split(".")[0] for key in normed.keys() - plain.keys()} == {"norms"}


def test_its_meta_step_leaves_the_student_s_statistics_alone() -> None:
    method = build(generator_norm="batch", lookahead="own").train()
    objective = method.objectives(0)[1]
    before = student(method)
    objective.loss((batch(1), batch(2)), RATES).total.backward()
    assert the_same(student(method), before)
    assert all(p.grad is not None for p in method.generator.parameters())


def test_the_setting_s_seed_makes_the_generator() -> None:
    a, b, c = (make("residual_metadistiller", {}, setting(seed=seed)).generator.state_dict() for seed in (1, 1, 2))
    assert the_same(a, b)
    assert not the_same(a, c)
