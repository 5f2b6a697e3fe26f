"""The ablations of MetaDistiller's targets: each differs from it in one thing, and that thing is what it says."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metadistiller.data import Train
from metadistiller.errors import ConfigError
from metadistiller.lookup import find
from metadistiller.methods import Method
from metadistiller.recipes import recipe, recipes

from .toys import CLASSES, PACKAGE, RATES, Steps, batch, make, moved, setting, snapshot

TARGETS = ("meta", "labels", "frozen", "uniform")
# Of each option of the meta step a value that is not the default.
META = {
    "lookahead": "own",
    "heldout_batch_size": 64,
    "derivative": "finite_differences",
    "meta_precision": "float32",
    "generator_warmup_epochs": 1,
}


def build(targets: str, **options: Any) -> Method:
    return make("metadistiller", {"targets": targets, **options})


def test_the_paper_s_targets_are_the_default() -> None:
    assert find(PACKAGE, "method", "metadistiller").written_out({})["targets"] == "meta"


@pytest.mark.parametrize("targets", TARGETS)
def test_all_start_from_the_same_student_and_generator(targets: str) -> None:
    meta, other = build("meta").state_dict(), build(targets).state_dict()
    assert other.keys() == {key for key in meta if targets != "uniform" or not key.startswith("generator.")}
    assert all(torch.equal(meta[key], value) for key, value in other.items())


@pytest.mark.parametrize("targets", TARGETS)
def test_only_those_with_a_lesson_have_a_player(targets: str) -> None:
    assert set(build(targets).players()) == {"student", *(["generator"] if targets in ("meta", "labels") else [])}


def test_the_first_loss_of_the_student_is_the_same_wherever_a_generator_makes_the_targets() -> None:
    losses = [build(targets).train().objectives(0)[0].loss(batch(), RATES).total for targets in TARGETS]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert not torch.isclose(losses[0], losses[3])


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_teach_in_the_epochs_and_steps_of_the_meta_gradient() -> None:
    schedule = {"meta_every_epochs": 3, "meta_every_steps": 4}
    meta, labels = build("meta", **schedule), build("labels", **schedule)
    for epoch in range(7):
        ours, theirs = ([(o.of, o.every_steps) for o in method.objectives(epoch)] for method in (labels, meta))
        assert ours == theirs
        # The batch that the student has just learnt from; the meta-gradient needs one held out.
        assert all(objective.stream == Train() for objective in labels.objectives(epoch))
    pupils = [method.players()["generator"] for method in (meta, labels)]
    assert [(pupil.optimizer, pupil.lr) for pupil in pupils] == [("adam", 0.001)] * 2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_generator_s_loss_is_its_targets_cross_entropy_summed_over_exits(temperature: float) -> None:
    method = build("labels", temperature=temperature).train()
    images, labels = batch(1)
    loss = method.objectives(0)[1].loss((images, labels), RATES).total
    expected = 0.0
    # In training mode, as the student's own step makes them.
    for target in method.soft_targets(images):
        for probabilities, label in zip(target.tolist(), labels.tolist(), strict=True):
            expected -= math.log(probabilities[label]) / len(labels)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_reaches_the_generator_s_labels() -> None:
    sharp = build("labels").train()
    smooth = make("metadistiller", {"targets": "labels"}, setting(label_smoothing=0.3)).train()
    a, b = (method.objectives(0)[1].loss(batch(1), RATES).total for method in (sharp, smooth))
    assert not torch.isclose(a, b)


def test_a_generator_learns_from_labels_and_the_student_stays_bitwise_as_it_is() -> None:
    method = build("labels")
    steps = Steps(method)
    steps.step(0)
    student, generator = snapshot(method.boosting.student), snapshot(method.generator)
    losses = []
    for _ in range(20):
        losses.append(steps.differentiate(method.objectives(0)[1])["generator_loss"])
        steps.move("generator")
    assert losses[-1] < 0.8 * losses[0]
    assert moved(method.boosting.student, student) == set()
    assert all(p.grad is None for p in method.boosting.student.parameters())
    assert {name for name, _ in method.generator.named_parameters()} <= moved(method.generator, generator)


# -- frozen ------------------------------------------------------------------------------------------------------------


def test_a_frozen_generator_keeps_every_weight_while_the_student_learns() -> None:
    method = build("frozen")
    before, student = snapshot(method.generator), snapshot(method.boosting.student)
    steps = Steps(method)
    for epoch in range(3):
        steps.step(epoch)
    weights = {name for name, _ in method.generator.named_parameters()}
    # Running averages follow: targets are shown with them, and training uses the batch's own.
    assert not moved(method.generator, before) & weights
    assert {name for name, _ in method.boosting.student.named_parameters()} <= moved(method.boosting.student, student)


# -- uniform -----------------------------------------------------------------------------------------------------------


def test_uniform_targets_are_label_smoothing_of_the_exits_up_to_a_constant() -> None:
    """alpha CE(y, S) + (1 - alpha) KL(1/C || S) is cross entropy with smoothing 1 - alpha, less (1 - alpha) ln C."""
    method = build("uniform", alpha=0.7).train()
    images, labels = batch()
    parameters = list(method.parameters())
    ours = method.objectives(0)[0].loss((images, labels), RATES).total
    exits = method.exits(images)
    theirs = F.cross_entropy(exits[-1], labels)
    for logits in exits[:-1]:
        theirs = theirs + F.cross_entropy(logits, labels, label_smoothing=0.3) - 0.3 * math.log(CLASSES)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_uniform_targets_are_shown_as_such(temperature: float) -> None:
    targets = build("uniform", temperature=temperature).eval().soft_targets(batch()[0])
    assert len(targets) == 3
    assert all(torch.equal(target, torch.full((8, CLASSES), 1 / CLASSES)) for target in targets)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "option", "value"),
    [
        *((targets, *option) for targets in ("labels", "frozen", "uniform") for option in META.items()),
        ("frozen", "generator_lr", 0.01),
        ("uniform", "generator_lr", 0.01),
        ("uniform", "generator_norm", "batch"),
    ],
)
def test_an_option_without_effect_is_refused_where_it_was_set(targets: str, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"method\.{option} is .*no effect with --method\.targets {targets}"):
        build(targets, **{option: value})


@pytest.mark.parametrize("targets", TARGETS)
def test_written_out_defaults_and_what_recipes_set_pass(targets: str) -> None:
    member = find(PACKAGE, "method", "metadistiller")
    found = [recipe(name).method for name in recipes()]
    by_recipe = [dict(method.options) for method in found if method.name == "metadistiller"]
    assert {key for options in by_recipe for key in options} >= {"meta_every_epochs", "heldout", "generator_width"}
    for options in (*by_recipe, {"meta_every_steps": 2}):
        written = member.written_out({"targets": targets, **options})
        assert member.written_out(written) == written
