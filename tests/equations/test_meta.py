"""The meta-gradient of eq. 8 is right: against double backward, against finite differences, and in its limit cases."""

import copy
from itertools import product

import pytest
import torch
from torch import Tensor

from metadistiller.config import Choice
from metadistiller.losses import hard_loss
from metadistiller.meta import Derivative, directional_derivatives, heldout_gradient, look_ahead, meta_loss

from .oracle import NETWORKS, Scene, cosine, double_backward, relative_error, scene

PAPER = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0}


def meta_gradient(s: Scene, **settings: float | str) -> list[Tensor]:
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **settings)
    return list(torch.autograd.grad(found.surrogate, s.theta_g()))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("width", ["mirror", 6])
def test_equals_double_backward(network: str, width: int | str) -> None:
    s = scene(NETWORKS[network], width=width)
    assert relative_error(meta_gradient(s, **PAPER), double_backward(s, **PAPER)) < 1e-10


@pytest.mark.parametrize("network", NETWORKS)
def test_the_derivative_by_double_backward_is_exact_too(network: str) -> None:
    s = scene(NETWORKS[network])
    found = meta_gradient(s, **PAPER, derivative="double_backward")
    assert relative_error(found, double_backward(s, **PAPER)) < 1e-10


def test_equals_double_backward_on_bottleneck_blocks() -> None:
    s = scene(Choice(name="resnet50", options={"width": 4}), width=8, batch=4)
    assert relative_error(meta_gradient(s, **PAPER), double_backward(s, **PAPER)) < 1e-10


# Not the deeper ones: rounding alone takes them over a kink of ReLU on one machine or another.
@pytest.mark.parametrize("network", ["resnet10", "resnet10-imagenet", "wrn10_1"])
def test_equals_double_backward_in_single_precision(network: str) -> None:
    s = scene(NETWORKS[network], dtype=torch.float32)
    assert relative_error(meta_gradient(s, **PAPER), double_backward(s, **PAPER)) < 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 3.0},
        {"alpha": 0.1},
        {"inner_lr": 0.01},
        {"heldout": "all"},
        {"label_smoothing": 0.1},
        {"temperature": 2.0, "alpha": 0.0, "heldout": "all", "label_smoothing": 0.2},
    ],
)
def test_equals_double_backward_for_every_option(change: dict[str, float | str]) -> None:
    s = scene(NETWORKS["resnet10"])
    settings = PAPER | change
    assert relative_error(meta_gradient(s, **settings), double_backward(s, **settings)) < 1e-10


def test_agrees_with_central_differences_in_theta_g() -> None:
    """No calculus at all: move one weight of the generator, take the look-ahead step, look at the held-out loss."""
    s = scene(NETWORKS["wrn10_1"], classes=3, width=4, batch=4)

    def heldout() -> float:
        fast = look_ahead(s.student, s.generator, s.train_batch, **PAPER).fast_params
        return heldout_gradient(s.student, fast, s.heldout_batch, heldout="final")[0].item()

    gradient = meta_gradient(s, **PAPER)
    # Larger steps cross kinks of ReLU, smaller ones drown in rounding.
    step = 1e-5
    drawn = torch.Generator().manual_seed(1)
    differences, ours = [], []
    for parameter, slope in zip(s.theta_g(), gradient, strict=True):
        for place in torch.randint(parameter.numel(), (1,), generator=drawn).tolist():
            flat = parameter.data.view(-1)
            kept = flat[place].item()
            flat[place] = kept + step
            above = heldout()
            flat[place] = kept - step
            below = heldout()
            flat[place] = kept
            differences.append((above - below) / (2 * step))
            ours.append(slope.reshape(-1)[place].item())
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(differences, dtype=torch.float64)
    assert b.abs().max() > 1e-6, "the differences are noise; the test would prove nothing"
    assert ((a - b).norm() / b.norm()).item() < 1e-6


@pytest.mark.parametrize("derivative", ["forward_mode", "double_backward", "finite_differences"])
@pytest.mark.parametrize("zero", [{"inner_lr": 0.0}, {"alpha": 1.0}])
def test_is_exactly_zero_without_a_step_or_without_a_soft_term(zero: dict[str, float], derivative: str) -> None:
    for dtype in (torch.float64, torch.float32):
        gradient = meta_gradient(scene(NETWORKS["resnet10"], dtype=dtype), **(PAPER | zero), derivative=derivative)
        assert all(torch.count_nonzero(g) == 0 for g in gradient)


def test_v_taken_at_theta_s_instead_of_the_look_ahead_would_be_noticed() -> None:
    """The commonest mistake: the held-out gradient at the old parameters. It must not pass for the right one."""
    s = scene(NETWORKS["resnet10"])
    targets = look_ahead(s.student, s.generator, s.train_batch, **PAPER).target_logits
    old = {name: value.detach().requires_grad_() for name, value in s.student.named_parameters()}
    _, v = heldout_gradient(s.student, old, s.heldout_batch, heldout="final")
    u = directional_derivatives(s.student, v, s.train_batch[0], temperature=1.0)
    surrogate = 0.05 * sum((u_k * t.softmax(1)).sum(1).mean() for u_k, t in zip(u, targets, strict=True))
    wrong = list(torch.autograd.grad(surrogate, s.theta_g()))
    assert relative_error(wrong, double_backward(s, **PAPER)) > 1e-2


def test_features_that_are_not_detached_would_be_noticed() -> None:
    s = scene(NETWORKS["resnet10"])
    attached = double_backward(s, **PAPER, detach_features=False)
    assert relative_error(meta_gradient(s, **PAPER), attached) > 1e-2


def test_look_ahead_is_one_plain_gradient_step() -> None:
    s = scene(NETWORKS["resnet10"])
    ahead = look_ahead(s.student, s.generator, s.train_batch, **PAPER)
    mirror = copy.deepcopy(s.student)
    _, exits = mirror(s.train_batch[0])
    labels = s.train_batch[1]
    loss = hard_loss(exits[-1], labels)
    for logits, target in zip(exits[:-1], ahead.target_logits, strict=True):
        kl = torch.nn.functional.kl_div(logits.log_softmax(1), target.detach().softmax(1), reduction="batchmean")
        loss = loss + 0.5 * hard_loss(logits, labels) + 0.5 * kl
    loss.backward()
    with torch.no_grad():
        for name, parameter in mirror.named_parameters():
            torch.testing.assert_close(
                ahead.fast_params[name], parameter - 0.1 * parameter.grad, rtol=1e-12, atol=1e-14
            )


def test_only_the_trunk_and_the_exits_before_the_last_stage_run_forward() -> None:
    """Eq. 8 needs no tangent of the last stage: a student whose last stage refuses to run still has its u_k."""
    s = scene(NETWORKS["resnet10"])
    direction = {name: torch.randn_like(value) for name, value in s.student.named_parameters()}
    expected = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0)

    def refuse(*_: object) -> None:
        raise AssertionError("the last stage ran")

    s.student.backbone.layer4.register_forward_pre_hook(refuse)
    again = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0)
    assert len(again) == 3
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_directional_derivative_agrees_with_differences() -> None:
    s = scene(NETWORKS["wrn10_1"])
    direction = {name: torch.randn_like(value) for name, value in s.student.named_parameters()}
    tangents = directional_derivatives(s.student, direction, s.train_batch[0], temperature=2.0)
    step = 1e-6
    sides = []
    for sign in (1, -1):
        moved = copy.deepcopy(s.student)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += sign * step * direction[name]
            sides.append([(z / 2.0).log_softmax(1) for z in moved.early_exits(s.train_batch[0])])
    for tangent, above, below in zip(tangents, *sides, strict=True):
        torch.testing.assert_close(tangent, (above - below) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("network", "heldout"), list(product(NETWORKS, ["final", "all"])))
def test_leaves_the_student_bitwise_as_it_was(network: str, heldout: str) -> None:
    """Parameters, BatchNorm statistics, step counters, optimizer state and .grad: a generator update touches none."""
    s = scene(NETWORKS[network], dtype=torch.float32)
    optimizer = torch.optim.SGD(s.student.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        sum(z.square().mean() for z in s.student(s.train_batch[0])[1]).backward()
        optimizer.step()
    before = copy.deepcopy(
        (s.student.state_dict(), [p.grad for p in s.student.parameters()], optimizer.state_dict()["state"])
    )
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER, heldout=heldout)
    found.surrogate.backward(inputs=s.theta_g())
    after = (s.student.state_dict(), [p.grad for p in s.student.parameters()], optimizer.state_dict()["state"])
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    for index, state in after[2].items():
        assert torch.equal(before[2][index]["momentum_buffer"], state["momentum_buffer"])
    assert all(g.grad is not None for g in s.theta_g())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("heldout", ["final", "all"])
def test_finite_differences_come_near(heldout: str, dtype: torch.dtype) -> None:
    """As near as the kinks of ReLU within a step let them; a toy has few pixels to average these out."""
    s = scene(NETWORKS["resnet10"], dtype=dtype)
    exact = meta_gradient(s, **PAPER, heldout=heldout)
    near = meta_gradient(s, **PAPER, heldout=heldout, derivative="finite_differences")
    assert cosine(near, exact) >= 0.99
    assert not torch.equal(near[0], exact[0])


def test_shorter_finite_differences_come_as_near_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    s = scene(NETWORKS["resnet10"])
    exact = meta_gradient(s, **PAPER)
    errors = []
    for step in (1e-2, 1e-4, 1e-6):
        monkeypatch.setattr("metadistiller.meta.derivative.DIFFERENCE", step)
        errors.append(relative_error(meta_gradient(s, **PAPER, derivative="finite_differences"), exact))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_finite_differences_are_taken_in_the_parameters_precision_under_autocast() -> None:
    s = scene(NETWORKS["resnet10"], dtype=torch.float32)
    direction = {name: torch.randn_like(value) for name, value in s.student.named_parameters()}

    def differences() -> list[Tensor]:
        return directional_derivatives(
            s.student, direction, s.train_batch[0], temperature=1.0, how="finite_differences"
        )

    outside = differences()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = differences()
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("how", ["forward_mode", "finite_differences"])
def test_there_is_no_derivative_along_nothing(how: Derivative) -> None:
    """Neither a division by zero: the held-out gradient vanishes where the student is right about everything."""
    for dtype in (torch.float64, torch.float32):
        s = scene(NETWORKS["wrn10_1"], dtype=dtype)
        nothing = {name: torch.zeros_like(value) for name, value in s.student.named_parameters()}
        u = directional_derivatives(s.student, nothing, s.train_batch[0], temperature=1.0, how=how)
        assert all(torch.count_nonzero(u_k) == 0 for u_k in u)


def test_reports_the_heldout_loss_at_the_look_ahead() -> None:
    s = scene(NETWORKS["resnet10"])
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    fast = look_ahead(s.student, s.generator, s.train_batch, **PAPER).fast_params
    moved = copy.deepcopy(s.student)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter.copy_(fast[name])
    images, labels = s.heldout_batch
    assert torch.equal(found.heldout_loss, hard_loss(moved(images)[1][-1], labels))
    assert not found.heldout_loss.requires_grad


def test_a_step_along_the_meta_gradient_lowers_the_heldout_loss() -> None:
    s = scene(NETWORKS["resnet10"])
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    gradient = torch.autograd.grad(found.surrogate, s.theta_g())
    with torch.no_grad():
        for parameter, slope in zip(s.theta_g(), gradient, strict=True):
            parameter -= 1.0 * slope
    again = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    assert again.heldout_loss < found.heldout_loss
