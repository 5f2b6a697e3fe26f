"""The meta-gradient on networks with what the paper's have not: draws, attention, operations without a rule."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metadistiller.meta import Kept, directional_derivatives, meta_loss, shared_look_ahead, supported_derivative
from metadistiller.meta import meta_loss_from as meta_loss_after
from metadistiller.nn import LabelGenerator, MultiExit, adapt, stage_shapes

from .oracle import Scene, cosine, double_backward, relative_error

PAPER = {"inner_lr": 0.1, "alpha": 0.5, "temperature": 1.0}


class Drawing(nn.Module):
    """Two convolutional stages and one of attention; dropout and stochastic depth everywhere."""

    def __init__(self, width: int = 8, attention_dropout: float = 0.2) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3))
        self.two = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.GroupNorm(2, width), nn.GELU())
        self.tokens = Attending(width, attention_dropout)
        self.three = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.Hardswish(), nn.Dropout2d(0.2))
        self.classifier = nn.Linear(2 * width, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.three(self.tokens(self.two(self.one(images)))).mean((2, 3)))
        return logits


class Attending(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        x = features.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        share = self.dropout if self.training else 0.0
        depth = torch.empty(len(x), 1, 1, dtype=x.dtype).bernoulli_(0.8) if self.training else 1.0
        x = x + depth * F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], dropout_p=share)[:, 0]
        return x.transpose(1, 2).reshape(features.shape)


class Once(torch.autograd.Function):
    """Differentiable once: no forward-mode rule, no double backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Twice(torch.autograd.Function):
    """No forward-mode rule; its backward can be differentiated."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Ruled(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Applied(function), nn.Tanh())
        self.two = nn.Conv2d(4, 8, 3, 2, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.two(self.one(images)).mean((2, 3)))
        return logits


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function.apply(x)
        return result


def scene_of(network: nn.Module, dtype: torch.dtype = torch.float64) -> Scene:
    backbone = adapt(network, size=(32, 32))
    student = MultiExit(backbone, (32, 32)).to(dtype).train()
    generator = LabelGenerator(stage_shapes(backbone, (32, 32)), 5, width=6).to(dtype)
    batches = [(torch.randn(6, 3, 32, 32, dtype=dtype), torch.randint(5, (6,))) for _ in range(2)]
    return Scene(student, generator, *batches)


def gradient_of(s: Scene, surrogate: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(surrogate, s.theta_g()))


@pytest.mark.parametrize("derivative", ["forward_mode", "double_backward"])
def test_draws_are_the_same_in_all_passes_that_eq_8_compares(derivative: str) -> None:
    s = scene_of(Drawing())
    # The oracle's first pass draws as the look-ahead does, and its held-out pass goes on from there, as ours.
    torch.manual_seed(1)
    expected = double_backward(s, **PAPER)
    torch.manual_seed(1)
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER, derivative=derivative)
    assert relative_error(gradient_of(s, found.surrogate), expected) < 1e-10


def test_other_draws_would_be_noticed() -> None:
    s = scene_of(Drawing())
    torch.manual_seed(1)
    expected = double_backward(s, **PAPER)
    torch.manual_seed(2)
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
    assert relative_error(gradient_of(s, found.surrogate), expected) > 1e-2


def test_a_shared_look_ahead_draws_again_what_the_student_s_step_drew() -> None:
    s = scene_of(Drawing())
    own = []
    for shared in (False, True):
        torch.manual_seed(1)
        if not shared:
            found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER)
        else:
            buffers = {name: value.clone() for name, value in s.student.named_buffers()}
            kept = Kept()
            images, labels = s.train_batch
            with kept:
                features, exits = s.student(images)
            targets = s.generator([f.detach() for f in features])
            loss = F.cross_entropy(exits[-1], labels)
            for logits, target in zip(exits[:-1], targets, strict=True):
                kl = F.kl_div(logits.log_softmax(1), target.detach().softmax(1), reduction="batchmean")
                loss = loss + 0.5 * F.cross_entropy(logits, labels) + 0.5 * kl
            loss.backward(inputs=list(s.student.parameters()))
            s.student.load_state_dict(buffers, strict=False)
            ahead = shared_look_ahead(s.student, s.train_batch, targets, inner_lr=0.1, kept=kept)
            found = meta_loss_after(ahead, s.student, s.heldout_batch, **PAPER)
        own.append(gradient_of(s, found.surrogate))
    assert relative_error(own[1], own[0]) < 1e-10


def test_the_generators_of_random_numbers_go_on_as_without_the_derivative() -> None:
    s = scene_of(Drawing())
    direction = {name: torch.randn_like(p) for name, p in s.student.named_parameters()}
    for how in ("forward_mode", "double_backward", "finite_differences"):
        before = torch.get_rng_state()
        directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0, how=how)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("autocast", [False, True])
def test_under_autocast_attention_and_its_normalisation_have_a_derivative(autocast: bool) -> None:
    s = scene_of(Drawing(), torch.float32)
    direction = {name: 0.1 * torch.randn_like(p) for name, p in s.student.named_parameters()}
    torch.manual_seed(1)
    kept = Kept()
    with kept, torch.no_grad():
        s.student(s.train_batch[0])
    expected = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0, kept=kept)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        torch.manual_seed(1)
        found = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0)
    assert relative_error(found, expected) < (0.2 if autocast else 1e-5)


@pytest.mark.parametrize(
    ("function", "way", "said"),
    [(Twice, "double_backward", 1), (Once, "finite_differences", 2)],
)
def test_where_an_operation_has_no_rule_the_next_way_is_taken_and_said(
    function: type[torch.autograd.Function], way: str, said: int
) -> None:
    s = scene_of(Ruled(function))
    with pytest.warns(
        UserWarning, match=rf"the exits' derivative of eq. 8 is taken by .*derivative={way}|eq. 8"
    ) as all_:
        assert supported_derivative(s.student, s.train_batch[0]) == way
    assert len(all_) == said
    assert f"derivative={way}" in str(all_[-1].message)


def test_the_way_without_rules_is_right() -> None:
    s = scene_of(Ruled(Twice))
    found = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER, derivative="double_backward")
    expected = double_backward(s, **PAPER)
    assert relative_error(gradient_of(s, found.surrogate), expected) < 1e-10
    near = meta_loss(s.student, s.generator, s.train_batch, s.heldout_batch, **PAPER, derivative="finite_differences")
    assert cosine(gradient_of(s, near.surrogate), expected) > 0.99


def test_a_network_of_usual_operations_says_nothing() -> None:
    s = scene_of(Drawing())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert supported_derivative(s.student, s.train_batch[0]) == "forward_mode"


def test_weights_made_for_the_occasion_are_not_mistaken_for_each_other() -> None:
    """A standardised weight is gone after its use, and the next may lie in its memory."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), None, self.stride, self.padding)

    network = nn.Sequential(
        *(nn.Sequential(Standardised(c, 6, 3, s, 1), nn.Tanh()) for c, s in ((3, 2), (6, 1), (6, 1), (6, 2))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    s = scene_of(network)
    direction = {name: torch.randn_like(p) for name, p in s.student.named_parameters()}
    kept = Kept()
    with kept:
        s.student(s.train_batch[0])
    with_kept = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0, kept=kept)
    exact = directional_derivatives(s.student, direction, s.train_batch[0], temperature=1.0, how="double_backward")
    assert relative_error(with_kept, exact) < 1e-10
