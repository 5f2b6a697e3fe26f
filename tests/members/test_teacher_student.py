"""Methods that learn with a second network: what all refuse, that a teacher is never touched, what each does with it.

What student and peer learn from each other is in test_dml.py.
"""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metadistiller.config import Choice
from metadistiller.errors import ConfigError, ShapeError
from metadistiller.lookup import table
from metadistiller.losses import attention_loss
from metadistiller.methods import Method
from metadistiller.methods.fitnet import _regressor
from metadistiller.nn import StageShape

from .toys import PACKAGE, RATES, WIDER, Steps, batch, make, moved, network, setting, snapshot, teacher

PARTNERS = {name: member.partner for name, member in table(PACKAGE).items() if member.partner}
TAUGHT: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, partner in PARTNERS.items() if partner == "teacher"),
    ("fitnet", {"two_stage": False}),
]


def student_loss(method: Method, epoch: int = 0) -> Tensor:
    return method.objectives(epoch)[0].loss(batch(), RATES).total


# -- the second network ------------------------------------------------------------------------------------------------


def test_the_methods_of_table_3_are_here() -> None:
    assert PARTNERS == {"kd": "teacher", "fitnet": "teacher", "attention_transfer": "teacher", "dml": "peer"}


@pytest.mark.parametrize("name", PARTNERS)
def test_without_a_second_network_the_options_that_give_one_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"method {name} learns .*--teacher\.model NAME"):
        make(name, within=setting(teacher=None, peer=None))


@pytest.mark.parametrize("name", PARTNERS)
def test_a_second_network_of_other_classes_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="7 classes apart, the student 5"):
        make(name, within=setting(**{PARTNERS[name]: network(WIDER, classes=7)}))


@pytest.mark.parametrize(("name", "options"), TAUGHT)
def test_a_teacher_is_no_part_of_the_method_and_never_moves(name: str, options: dict[str, Any]) -> None:
    ours = teacher()
    before = snapshot(ours)
    method = make(name, options, setting(teacher=ours))
    held = {tensor.data_ptr() for tensor in (*method.parameters(), *method.state_dict().values())}
    assert not held & {tensor.data_ptr() for tensor in ours.state_dict().values()}
    steps = Steps(method)
    for epoch in (0, 0, 5):
        steps.step(epoch)
    assert moved(ours, before) == set()
    assert not any(part.training for part in ours.modules())
    assert all(p.grad is None and not p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize(("name", "options"), TAUGHT)
def test_a_copy_has_a_teacher_of_its_own(name: str, options: dict[str, Any]) -> None:
    ours = teacher()
    method = make(name, options, setting(teacher=ours)).train()
    copied = copy.deepcopy(method)
    expected = [student_loss(method, epoch) for epoch in (0, 5)]
    with torch.no_grad():
        for parameter in (*ours.parameters(), *method.parameters()):
            parameter.zero_()
    assert [student_loss(copied, epoch) for epoch in (0, 5)] == expected


@pytest.mark.parametrize(("name", "options"), TAUGHT)
def test_a_method_with_a_teacher_of_shapes_alone_still_answers(name: str, options: dict[str, Any]) -> None:
    """A run that is only looked at needs no teacher's weights."""
    method = make(name, options, setting(teacher=teacher().to("meta"))).eval()
    images, _ = batch()
    assert torch.equal(method.exits(images)[-1], method.deployable()(images))
    assert method.soft_targets(images) == []


@pytest.mark.parametrize(("name", "options"), TAUGHT)
def test_a_teacher_answers_for_each_image_alone(name: str, options: dict[str, Any]) -> None:
    """In evaluation mode, whatever the caller left it in: with the batch's statistics the loss would be another."""
    frozen, live = (make(name, options, setting(teacher=teacher().train(mode))) for mode in (False, True))
    assert torch.equal(student_loss(frozen.train()), student_loss(live.train()))


# -- kd ----------------------------------------------------------------------------------------------------------------


def test_kd_at_alpha_one_is_plain_training() -> None:
    kd, plain = Steps(make("kd", {"alpha": 1.0})), Steps(make("plain"))
    for epoch in range(3):
        assert kd.step(epoch)["loss"] == plain.step(epoch)["loss"]
    assert moved(kd.method.deployable(), snapshot(plain.method.deployable())) == set()


def test_kd_from_a_copy_of_itself_has_no_soft_term() -> None:
    backbone = network()
    method = make("kd", within=setting(backbone, teacher=copy.deepcopy(backbone))).eval()
    parts = method.objectives(0)[0].loss(batch(), RATES).parts
    assert abs(parts["final_soft"].item()) < 1e-6
    torch.testing.assert_close(parts["loss"], 0.1 * parts["final_hard"])


def test_kd_is_eq_1_between_the_two_networks() -> None:
    ours = teacher().eval()
    method = make("kd", {"alpha": 0.25, "temperature": 2.0}, setting(teacher=ours)).train()
    images, labels = batch()
    loss = student_loss(method)
    z, t = method.deployable()(images), ours(images)
    kl = (F.softmax(t / 2, 1) * (F.log_softmax(t / 2, 1) - F.log_softmax(z / 2, 1))).sum(1).mean()
    torch.testing.assert_close(loss, 0.25 * F.cross_entropy(z, labels) + 0.75 * 4 * kl)


# -- attention_transfer ------------------------------------------------------------------------------------------------


def test_attention_to_a_copy_of_itself_is_zero() -> None:
    backbone = network()
    method = make("attention_transfer", within=setting(backbone, teacher=copy.deepcopy(backbone))).eval()
    parts = method.objectives(0)[0].loss(batch(), RATES).parts
    assert parts["attention"] == 0
    assert torch.equal(parts["loss"], parts["final_hard"])


WRN = Choice(name="wrn10_1")


@pytest.mark.parametrize(
    ("student", "other", "pairs"),
    [
        (None, WIDER, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        (None, WRN, [(2, 1), (3, 2), (4, 3)]),
        (WRN, WIDER, [(1, 2), (2, 3), (3, 4)]),
    ],
)
def test_stages_are_paired_from_the_deep_end_and_summed(
    student: Choice | None, other: Choice, pairs: list[tuple[int, int]]
) -> None:
    backbone = network(student) if student else network()
    ours = network(other, seed=1).eval()
    method = make("attention_transfer", {"power": 4.0, "attention_weight": 7.0}, setting(backbone, teacher=ours)).eval()
    images, labels = batch()
    parts = method.objectives(0)[0].loss((images, labels), RATES).parts
    mine, theirs = backbone.stages(images), ours.stages(images)
    expected = sum(attention_loss(mine[s - 1], theirs[t - 1], power=4.0) for s, t in pairs)
    torch.testing.assert_close(parts["attention"], expected.detach())
    torch.testing.assert_close(parts["loss"], F.cross_entropy(backbone(images), labels) + 7 * parts["attention"])


# -- fitnet ------------------------------------------------------------------------------------------------------------

GUIDED = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2", "regressor")


def test_hint_epochs_leave_everything_behind_the_hint_stage_bitwise_alone() -> None:
    """Weights, running statistics and the optimizer's state; weight decay must not shrink what has no gradient."""
    method = make("fitnet", {"hint_epochs": 2})
    steps = Steps(method)
    before = snapshot(method.student)
    for _ in range(3):
        steps.step(0)
    changed = moved(method.student, before)
    assert changed == {name for name in before if name.startswith(GUIDED)}
    state = steps.optimizers["student"].state()
    assert {name.rsplit("/", 1)[0] for name in state} == {
        name for name, _ in method.student.named_parameters() if name.startswith(GUIDED)
    }


def test_after_the_hints_the_regressor_rests_and_the_whole_network_learns() -> None:
    method = make("fitnet", {"hint_epochs": 2})
    steps = Steps(method)
    steps.step(1)
    before = snapshot(method.student)
    steps.step(2)
    assert moved(method.student, before) == {name for name in before if name.startswith("backbone.")}


def test_momentum_carries_over_from_the_hints_and_begins_anew_behind_them() -> None:
    """SGD by hand, with the defaults of Optim: b = 0.9 b + g + 5e-4 w, w = w - lr b, and b = 0 where nothing moved."""
    method = make("fitnet")
    steps = Steps(method)
    steps.step(0)
    momenta = {
        name.removesuffix("/momentum_buffer"): value.clone()
        for name, value in steps.optimizers["student"].state().items()
    }
    assert any(value.abs().sum() > 0 for value in momenta.values())
    weights = {name: value for name, value in method.student.named_parameters() if name.startswith("backbone.")}
    twin = copy.deepcopy(method)
    loss = twin.objectives(1)[0].loss(batch(1), RATES).total
    slopes = torch.autograd.grad(loss, [twin.student.get_parameter(name) for name in weights])
    expected = {}
    for (name, weight), slope in zip(weights.items(), slopes, strict=True):
        moving = 0.9 * momenta.get(name, torch.zeros_like(weight)) + slope + 5e-4 * weight
        expected[name] = (weight - 0.02 * moving).detach()
    steps.step(1)
    for name, weight in weights.items():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_second_stage_is_kd() -> None:
    """To the bit, from the same student: fitnet and kd differ in the hints alone."""
    fitnet, kd = Steps(make("fitnet")), Steps(make("kd"))
    assert fitnet.step(1) == kd.step(1)
    assert moved(fitnet.method.deployable(), snapshot(kd.method.deployable())) == set()


def test_nothing_runs_in_hint_epochs_that_no_hint_needs() -> None:
    ours = teacher()
    method = make("fitnet", {"hint_stage": 3, "teacher_stage": 2}, setting(teacher=ours)).train()

    def refuse(*_: object) -> None:
        raise AssertionError("it ran")

    for part in (ours.layer3, ours.layer4, ours.fc, method.deployable().layer4, method.deployable().fc):
        part.register_forward_pre_hook(refuse)
    assert student_loss(method, 0) > 0
    with pytest.raises(AssertionError, match="it ran"):
        student_loss(method, 1)


@pytest.mark.parametrize(("hint_epochs", "last"), [(0.1, 0), (0.25, 2), (1, 0), (4, 3)])
def test_hints_last_for_a_fraction_of_the_run_or_for_so_many_epochs(hint_epochs: float, last: int) -> None:
    method = make("fitnet", {"hint_epochs": hint_epochs}).train()
    kinds = [set(method.objectives(epoch)[0].loss(batch(), RATES).parts) for epoch in range(10)]
    assert kinds[: last + 1] == [{"loss", "hint"}] * (last + 1)
    assert kinds[last + 1 :] == [{"loss", "final_hard", "final_soft"}] * (9 - last)


@pytest.mark.parametrize(("hint_epochs", "epochs"), [(10, 10), (0.95, 10), (0.1, 1)])
def test_hints_that_leave_no_second_stage_are_refused(hint_epochs: float, epochs: int) -> None:
    with pytest.raises(ConfigError, match=rf"method\.hint_epochs is {hint_epochs}; of {epochs} epochs"):
        make("fitnet", {"hint_epochs": hint_epochs}, setting(epochs=epochs))


def test_in_one_stage_label_and_hint_are_learnt_together_from_first_to_last() -> None:
    ours = teacher().eval()
    method = make("fitnet", {"two_stage": False, "hint_weight": 30.0}, setting(teacher=ours, epochs=1)).train()
    images, labels = batch()
    losses = [student_loss(method, epoch) for epoch in (0, 9)]
    features = method.deployable().stages(images)
    off = method.student.regressor(features[1]) - ours.stages(images)[1]
    expected = F.cross_entropy(method.deployable().head(features[-1]), labels) + 30 * off.square().sum() / off.numel()
    torch.testing.assert_close(losses[0], expected)
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "kernel"),
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((6, 10), (3, 5), nn.Conv2d, (3, 3)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4)),
        ((3, 5), (6, 10), nn.ConvTranspose2d, (4, 4)),
        ((8, 8), (5, 5), nn.Conv2d, (4, 4)),
        ((9, 8), (8, 8), nn.Conv2d, (2, 1)),
    ],
)
def test_the_regressor_brings_every_map_to_the_teacher_s_shape(
    ours: tuple[int, int], theirs: tuple[int, int], kind: type[nn.Module], kernel: tuple[int, int]
) -> None:
    regressor = _regressor(StageShape(3, *ours), StageShape(7, *theirs))
    assert [type(part) for part in regressor] == [kind, nn.BatchNorm2d, nn.ReLU]
    assert regressor[0].kernel_size == kernel
    assert regressor[0].bias is not None
    assert regressor(torch.randn(2, 3, *ours)).shape == (2, 7, *theirs)


@pytest.mark.parametrize(("ours", "theirs"), [((5, 5), (8, 8)), ((4, 8), (8, 4)), ((4, 4), (16, 16))])
def test_a_map_that_is_smaller_and_not_by_half_is_refused(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=rf"{ours[0]}x{ours[1]}, the teacher's {theirs[0]}x{theirs[1]}"):
        _regressor(StageShape(3, *ours), StageShape(7, *theirs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hint_stage": 5}, r"method\.hint_stage is 5; the student has stages 1 to 4"),
        ({"hint_stage": 0}, r"method\.hint_stage is 0; the student has stages 1 to 4"),
        ({"teacher_stage": 4}, r"method\.teacher_stage is 4; the teacher has stages 1 to 3"),
        ({"teacher_stage": 0}, r"method\.teacher_stage is 0; the teacher has stages 1 to 3"),
        ({"hint_stage": 4}, r"method\.teacher_stage is 4; the teacher has stages 1 to 3"),
    ],
)
def test_a_stage_that_is_not_there_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("fitnet", options, setting(teacher=network(WRN, seed=1)))


@pytest.mark.parametrize("name", ["hint_epochs", "alpha", "temperature"])
def test_options_of_two_stages_are_refused_with_one(name: str) -> None:
    make("fitnet", {"two_stage": False, "hint_epochs": 0.1, "alpha": 0.1, "temperature": 4.0})
    with pytest.raises(ConfigError, match=rf"method\.{name} is 0\.7; it has no effect with --method\.two_stage false"):
        make("fitnet", {"two_stage": False, name: 0.7})
