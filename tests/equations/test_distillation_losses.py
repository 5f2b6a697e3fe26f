"""Losses of the methods with a second network: eq. 1, hints and attention, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from metadistiller.errors import ShapeError
from metadistiller.losses import attention_loss, attention_map, distillation_loss, hint_loss


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


STUDENT, TEACHER, LABELS = [[1.0, 2.0, -1.0], [0.5, 0.0, 0.0]], [[0.0, 3.0, 1.0], [2.0, -1.0, 0.5]], [1, 2]


def eq1(alpha: float, temperature: float, smoothing: float = 0.0) -> tuple[float, float, float]:
    """Eq. 1 on the rows above: total, CE, tau^2 KL."""
    hard = soft = 0.0
    for student, teacher, label in zip(STUDENT, TEACHER, LABELS, strict=True):
        for c, p in enumerate(softmax(student)):
            wanted = (1 - smoothing) * (c == label) + smoothing / 3
            hard -= wanted * math.log(p) / 2
        for t, p in zip(softmax(teacher, temperature), softmax(student, temperature), strict=True):
            soft += temperature**2 * t * math.log(t / p) / 2
    return alpha * hard + (1 - alpha) * soft, hard, soft


@pytest.mark.parametrize(("alpha", "temperature", "smoothing"), [(0.1, 4.0, 0.0), (0.5, 1.0, 0.0), (0.3, 2.0, 0.2)])
def test_distillation_is_eq_1(alpha: float, temperature: float, smoothing: float) -> None:
    total, parts = distillation_loss(
        double(STUDENT),
        torch.tensor(LABELS),
        double(TEACHER),
        alpha=alpha,
        temperature=temperature,
        label_smoothing=smoothing,
    )
    expected, hard, soft = eq1(alpha, temperature, smoothing)
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert parts["final_hard"].item() == pytest.approx(hard, rel=1e-12)
    assert parts["final_soft"].item() == pytest.approx(soft, rel=1e-12)


def test_one_number_of_eq_1_on_paper() -> None:
    """Two classes, tau = 2. p_s = (1/2, 1/2); z_t = (2 ln 3, 0), so p_t = (3/4, 1/4).

    KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; CE = ln 2 = 0.693147; 0.1 CE + 0.9 * 4 * KL = 0.540238.
    """
    found, _ = distillation_loss(
        double([[0.0, 0.0]]), torch.tensor([0]), double([[2 * math.log(3), 0.0]]), alpha=0.1, temperature=2.0
    )
    assert found.item() == pytest.approx(0.540238, abs=1e-6)


def test_alpha_one_has_no_soft_term_whatever_the_teacher_says() -> None:
    wild = torch.full((2, 3), float("nan"), dtype=torch.float64)
    total, parts = distillation_loss(double(STUDENT), torch.tensor(LABELS), wild, alpha=1.0, temperature=4.0)
    assert total.item() == pytest.approx(eq1(1.0, 4.0)[0], rel=1e-12)
    assert set(parts) == {"final_hard"}


def test_parts_are_without_gradient_and_the_total_reaches_the_student_alone() -> None:
    student, teacher = double(STUDENT).requires_grad_(), double(TEACHER)
    total, parts = distillation_loss(student, torch.tensor(LABELS), teacher, alpha=0.1, temperature=4.0)
    total.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert not any(part.requires_grad for part in parts.values())


def test_hint_loss_is_the_mean_over_all_elements() -> None:
    """Differences 1, 2, 0, -3 over two images and two channels: (1 + 4 + 0 + 9) / 4."""
    hint = double([1.0, 2.0, 0.0, -3.0]).reshape(2, 2, 1, 1)
    assert hint_loss(hint, torch.zeros_like(hint)).item() == 3.5


def test_hint_loss_is_judged_in_single_precision() -> None:
    hint, teacher = torch.full((1, 1, 1, 1), 1.0078125).bfloat16(), torch.ones(1, 1, 1, 1).bfloat16()
    assert hint_loss(hint, teacher).dtype == torch.float32
    assert hint_loss(hint, teacher).item() == 0.0078125**2


def test_hints_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 2, 4, 4\).*\(1, 3, 4, 4\)"):
        hint_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))


# One image, two channels, 1 x 2 positions. Means over channels of F^2: (1 + 25) / 2 = 13 and (49 + 1) / 2 = 25.
FEATURES = [[[[1.0, 7.0]], [[-5.0, 1.0]]]]


def test_attention_map_by_hand() -> None:
    length = math.sqrt(13**2 + 25**2)
    found = attention_map(double(FEATURES))
    assert found.shape == (1, 2)
    assert found[0].tolist() == pytest.approx([13 / length, 25 / length], rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 3.0, 4.0])
def test_attention_map_at_other_powers(power: float) -> None:
    places = [(1 + 5**power) / 2, (7**power + 1) / 2]
    length = math.hypot(*places)
    expected = [place / length for place in places]
    assert attention_map(double(FEATURES), power=power)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_attention_loss_by_hand() -> None:
    """Student's map (13, 25), teacher's (3, 4) of length 5; mean over two images, of which the second agrees."""
    student = double([FEATURES[0], [[[3.0, 0.0]], [[0.0, 4.0]]]])
    # Three channels: squares sum to (9, 12), whose means have the direction (3, 4). The second image: (9, 16).
    teacher = double(
        [
            [[[3.0, 0.0]], [[0.0, math.sqrt(12)]], [[0.0, 0.0]]],
            [[[0.0, 4.0]], [[3.0, 0.0]], [[0.0, 0.0]]],
        ]
    )
    length = math.sqrt(13**2 + 25**2)
    first = (13 / length - 0.6) ** 2 + (25 / length - 0.8) ** 2
    assert attention_loss(student, teacher).item() == pytest.approx(first / 4, rel=1e-12)


@pytest.mark.parametrize("swap", [False, True])
def test_the_larger_map_is_averaged_down_before_it_is_squared(swap: bool) -> None:
    """Two rows of 1, 3, 2, -1 become one row of their means, 2 and 0.5; a mean of squares would be another."""
    large = double([[[[1.0, 3.0, 2.0, -1.0], [1.0, 3.0, 2.0, -1.0]]]])
    small = double([[[[3.0, 4.0]]]])
    pooled = [2.0**2, 0.5**2]
    length, other = math.hypot(*pooled), math.hypot(9.0, 16.0)
    expected = ((pooled[0] / length - 9 / other) ** 2 + (pooled[1] / length - 16 / other) ** 2) / 2
    pair = (small, large) if swap else (large, small)
    assert attention_loss(*pair).item() == pytest.approx(expected, rel=1e-12)


def test_sides_are_matched_each_by_itself() -> None:
    """A high map and a wide one meet at the smaller of both sides; constant maps agree there."""
    assert attention_loss(torch.ones(2, 3, 4, 2), torch.ones(2, 5, 2, 4)).item() == 0.0


def features(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_a_positive_multiple_and_any_order_of_channels_look_at_the_same_place(power: float) -> None:
    student, teacher = features(1, 3, 6, 4, 4), features(2, 3, 5, 4, 4)
    # Another factor for each image: length 1 is a matter of images, not of batches.
    factors = double([0.1, 3.0, 50.0]).reshape(3, 1, 1, 1)
    assert attention_loss(factors * teacher, teacher, power=power).item() < 1e-30
    shuffled = student[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))]
    there, back = (attention_loss(map_, teacher, power=power) for map_ in (student, shuffled))
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)
    assert there > 1e-3


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_features_that_are_all_zero_have_a_finite_gradient(power: float) -> None:
    """Behind a ReLU an image may have a stage of zeros; it must not turn the whole batch into NaN."""
    student = features(1, 2, 3, 4, 4)
    student[0] = 0
    student.requires_grad_()
    attention_loss(student, features(2, 2, 3, 4, 4), power=power).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[0].abs().sum() == 0
    assert student.grad[1].abs().sum() > 0


def test_attention_is_judged_in_single_precision() -> None:
    # Their squares are beyond the range of float16.
    half = (1e4 * features(1, 2, 3, 4, 4)).half()
    found = attention_loss(half, features(2, 2, 3, 4, 4))
    assert found.isfinite()
    torch.testing.assert_close(found, attention_loss(half.float(), features(2, 2, 3, 4, 4)))


def test_features_of_other_images_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"2 images.*3"):
        attention_loss(torch.ones(2, 3, 4, 4), torch.ones(3, 3, 4, 4))
