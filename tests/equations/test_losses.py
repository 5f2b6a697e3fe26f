"""Eqs. 1 to 4 in their limit cases."""

import math

import pytest
import torch
import torch.nn.functional as F

from metadistiller.errors import ShapeError
from metadistiller.losses import hard_loss, self_boosting_loss, soft_divergence, target_statistics

N, C = 6, 7


def logits(seed: int, **options: object) -> torch.Tensor:
    return 3 * torch.randn(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_divergence_is_kl_of_target_to_student_summed_over_classes(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    expected = 0.0
    for s, t in zip((student / temperature).softmax(1), (teacher / temperature).softmax(1), strict=True):
        expected += sum(float(p * torch.log(p / q)) for p, q in zip(t, s, strict=True)) / N
    found = soft_divergence(student, teacher, temperature=temperature)
    assert math.isclose(found.item(), temperature**2 * expected, rel_tol=1e-12)


def test_soft_divergence_is_zero_only_where_both_agree_and_is_not_symmetric() -> None:
    student, teacher = logits(1), logits(2)
    assert soft_divergence(student, student + 5, temperature=2.0).abs() < 1e-14
    there = soft_divergence(student, teacher, temperature=1.0)
    back = soft_divergence(teacher, student, temperature=1.0)
    assert there > 0
    assert not torch.isclose(there, back)


def test_soft_divergence_pulls_the_student_as_cross_entropy_with_the_target_does() -> None:
    student = logits(1).requires_grad_()
    teacher = logits(2)
    (ours,) = torch.autograd.grad(soft_divergence(student, teacher, temperature=1.0), student)
    (theirs,) = torch.autograd.grad(F.cross_entropy(student, teacher.softmax(1)), student)
    torch.testing.assert_close(ours, theirs)


def test_temperature_squared_keeps_the_gradient_at_high_temperature() -> None:
    """For large tau the gradient tends to the centred difference of the logits over C, free of tau."""
    student, teacher = logits(1).requires_grad_(), logits(2)
    sizes = []
    for temperature in (100.0, 1000.0):
        (g,) = torch.autograd.grad(soft_divergence(student, teacher, temperature=temperature), student)
        sizes.append(g)
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=1e-4)
    centred = (student - teacher) - (student - teacher).mean(1, keepdim=True)
    torch.testing.assert_close(sizes[1], (centred / C / N).detach(), rtol=0.05, atol=1e-4)


def test_a_target_that_is_the_label_makes_the_soft_term_the_hard_one() -> None:
    labels = torch.arange(N) % C
    certain = 1e4 * F.one_hot(labels, C).double()
    torch.testing.assert_close(
        soft_divergence(logits(1), certain, temperature=1.0), hard_loss(logits(1), labels), rtol=1e-9, atol=1e-9
    )


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(6, 7\).*\(6, 5\)"):
        soft_divergence(logits(1), logits(2)[:, :5], temperature=1.0)


def boosting(alpha: float, targets: list[torch.Tensor] | None, **more: float) -> torch.Tensor:
    exits = [logits(k) for k in (1, 2, 3)]
    labels = torch.arange(N) % C
    return self_boosting_loss(exits, labels, targets, alpha=alpha, temperature=more.pop("temperature", 1.0), **more)[0]


def test_alpha_one_is_deep_supervision_whatever_the_targets() -> None:
    wild = [torch.full((N, C), float("nan"), dtype=torch.float64)] * 2
    assert torch.equal(boosting(1.0, wild), boosting(1.0, None))
    labels = torch.arange(N) % C
    torch.testing.assert_close(boosting(1.0, None), sum(hard_loss(logits(k), labels) for k in (1, 2, 3)))


def test_the_final_output_has_weight_one_and_the_exits_are_summed() -> None:
    labels = torch.arange(N) % C
    targets = [logits(8), logits(9)]
    expected = hard_loss(logits(3), labels)
    for k, target in zip((1, 2), targets, strict=True):
        expected = expected + 0.3 * hard_loss(logits(k), labels)
        expected = expected + 0.7 * soft_divergence(logits(k), target, temperature=2.0)
    torch.testing.assert_close(boosting(0.3, targets, temperature=2.0), expected)


def test_label_smoothing_mixes_the_label_with_the_uniform_distribution() -> None:
    labels = torch.arange(N) % C
    log_p = logits(1).log_softmax(1)
    expected = 0.8 * hard_loss(logits(1), labels) - 0.2 * log_p.mean(1).mean()
    torch.testing.assert_close(hard_loss(logits(1), labels, label_smoothing=0.2), expected)


def test_half_precision_logits_are_judged_in_single_precision() -> None:
    student, teacher = logits(1).bfloat16(), logits(2).bfloat16()
    found = soft_divergence(student, teacher, temperature=1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, soft_divergence(student.float(), teacher.float(), temperature=1.0))


def test_target_statistics_at_both_ends() -> None:
    labels = torch.arange(N) % C
    uniform = torch.zeros(N, C)
    sure = 1e4 * F.one_hot(labels, C).float()
    found = target_statistics([uniform, sure, sure.roll(1, 1)], labels, temperature=1.0)
    assert math.isclose(found["target_1_entropy"].item(), math.log(C), rel_tol=1e-6)
    assert math.isclose(found["target_1_confidence"].item(), 1 / C, rel_tol=1e-6)
    assert found["target_2_entropy"].item() == pytest.approx(0.0, abs=1e-6)
    assert found["target_2_accuracy"].item() == 100
    assert found["target_3_accuracy"].item() == 0
