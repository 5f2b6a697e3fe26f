"""boost(): the network stays as it is, and any loop can train it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import metadistiller
from metadistiller import Boosted, boost
from metadistiller.errors import ConfigError, StageError, UnknownName


class Small(nn.Module):
    """Without batch statistics, so that a batch in two halves is the batch."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.three = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.Dropout(0.0))
        self.classifier = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.three(self.two(self.one(images))).mean((2, 3)))
        return logits


def batch(seed: int = 0, count: int = 8) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 32, 32, generator=drawn), torch.randint(5, (count,), generator=drawn)


def boosted(model: nn.Module | None = None, **options: Any) -> Boosted:
    return boost(Small() if model is None else model, input_size=32, **options)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def macs(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(batch()[0])
    return counter.get_total_flops()


# The network stays as it is


@pytest.mark.parametrize("method", ["metadistiller", "self_distillation", "dsn", "plain"])
def test_the_same_network_comes_back(method: str) -> None:
    model = resnet18(num_classes=5).eval()
    model.layer1.train()
    modes = {name: module.training for name, module in model.named_modules()}
    before, cost = bits(model), macs(model)
    images = batch()[0]
    with torch.no_grad():
        logits = model(images)
    drawn = torch.get_rng_state()
    made = boosted(model, method=method)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with torch.no_grad():
        assert torch.equal(made(images), logits)
        assert torch.equal(made.exits(images)[-1], logits)
    made.train()
    made.loss(*batch()).backward()
    back = made.unwrap()
    assert back is model
    assert {name: value.shape for name, value in back.state_dict().items()} == {n: v.shape for n, v in before.items()}
    assert all(torch.equal(value, before[name]) for name, value in back.named_parameters())
    assert macs(back.eval()) == cost
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in back.modules())


def test_each_loss_moves_its_own_player_only() -> None:
    made = boosted(resnet18(num_classes=5)).train()
    made.loss(*batch()).backward()
    assert all(p.grad is None for p in made.generator_parameters())
    made.zero_grad()
    before, drawn = bits(made.method.players()["student"].module), torch.get_rng_state()
    made.meta_loss(batch(1), batch(2), inner_lr=0.1).backward()
    assert all(p.grad is None for p in made.student_parameters())
    assert all(p.grad is not None for p in made.generator_parameters())
    after = made.method.players()["student"].module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_prediction_is_the_network_s_in_evaluation_mode() -> None:
    made = boosted(resnet18(num_classes=5)).train()
    found = made.predict(batch()[0])
    assert made.training
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    assert torch.equal(found, F.softmax(made.eval()(batch()[0]), dim=1).detach())


def test_a_state_dict_brings_everything_back() -> None:
    one, other = boosted(), boosted(Small(), seed=3)
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.eval().exits(batch()[0]), other.eval().exits(batch()[0]), strict=True):
        assert torch.equal(a, b)


# Any loop


def test_extra_losses_and_the_parts_of_the_loss() -> None:
    made = boosted().train()
    loss = made.loss(*batch())
    assert made.parts["loss"] == loss.detach()
    assert {"final_hard", "exit_1_hard", "exit_1_soft"} <= made.parts.keys()
    (loss + 0.1 * sum(p.square().sum() for p in made.student_parameters())).backward()
    assert all(p.grad is not None for p in made.student_parameters())


@pytest.mark.parametrize("method", ["metadistiller", "self_distillation", "dsn", "plain"])
def test_mixed_labels(method: str) -> None:
    images, labels = batch()
    made = boosted(method=method).train()
    hard = made.loss(images, labels)
    torch.testing.assert_close(made.loss(images, F.one_hot(labels, 5).float()), hard)
    mixed = 0.5 * F.one_hot(labels, 5) + 0.1
    assert not torch.isclose(made.loss(images, mixed), hard)


def test_two_halves_of_a_batch_have_the_gradient_of_the_whole() -> None:
    # Linear exits: none of it knows the other images of the batch.
    images, labels = batch()
    made = boosted(method="self_distillation", exit_design="linear").train()
    made.loss(images, labels).backward()
    whole = [p.grad.clone() for p in made.student_parameters() if p.grad is not None]
    made.zero_grad()
    for half in (slice(0, 4), slice(4, 8)):
        (made.loss(images[half], labels[half]) / 2).backward()
    halves = [p.grad for p in made.student_parameters() if p.grad is not None]
    for a, b in zip(halves, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_averages_of_weights() -> None:
    made = boosted().train()
    average = AveragedModel(made.unwrap())
    average.update_parameters(made.unwrap())
    images = batch()[0]
    assert torch.equal(average(images), made.unwrap()(images))
    whole = AveragedModel(made)
    whole.update_parameters(made)
    assert torch.equal(whole(images), made(images))


def test_bfloat16() -> None:
    made = boosted(resnet18(num_classes=5)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = made.loss(*batch())
        surrogate = made.meta_loss(batch(1), batch(2), inner_lr=0.1)
    loss.backward()
    surrogate.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_float16_with_a_scaler() -> None:
    made = boosted(generator_width=8).train()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    student = torch.optim.SGD(made.student_parameters(), lr=0.1)
    before = bits(made)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = made.loss(*batch())
    scaler.scale(loss).backward()
    scaler.step(student)
    scaler.update()
    assert not torch.equal(
        before["method.boosting.student.exits.0.fc.weight"],
        made.state_dict()["method.boosting.student.exits.0.fc.weight"],
    )
    # The meta step is float32 there: its inner gradients are not scaled.
    torch.manual_seed(0)
    plain = made.meta_loss(batch(1), batch(2), inner_lr=0.1)
    with torch.autocast("cpu", dtype=torch.float16):
        half = made.meta_loss(batch(1), batch(2), inner_lr=0.1)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_student_learns_the_same() -> None:
    losses, graphs = [], 0

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    for compiled in (False, True):
        torch.manual_seed(0)
        made = boosted(resnet18(num_classes=5)).train()
        if compiled:
            torch._dynamo.reset()
            made.compile(backend=count, fullgraph=True)
        optimizer = torch.optim.SGD(made.student_parameters(), lr=0.01)
        found = []
        for step in range(3):
            loss = made.loss(*batch(step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            made.meta_loss(batch(8), batch(9), inner_lr=0.01).backward()
            found.append(loss.item())
            # As it may be looked at in every epoch.
            assert not any(module._forward_hooks for module in made.unwrap().modules())
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert graphs == 1, "it is compiled once, as one graph"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_copy_of_a_compiled_student_reads_its_own_stages() -> None:
    torch._dynamo.reset()
    made = boosted().train()
    made.compile(backend="eager")
    expected = made.loss(*batch())
    copied = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert torch.equal(copied.loss(*batch()), expected)
    assert not any(module._forward_hooks for module in copied.unwrap().modules())
    assert any(module._forward_hooks for module in made.modules())


# What cannot be boosted


class Sentences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.classifier = nn.Linear(4, 5)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.words(words).mean(1))
        return logits


class Pair(Small):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(images)
        return logits, logits


class Repeated(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.classifier(self.three(self.two(self.one(images))).mean((2, 3)))


def headless() -> nn.Module:
    model = resnet18()
    model.fc = nn.Identity()  # type: ignore[assignment]
    return model


def one_stage() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (one_stage, StageError, r"1 stage found in Sequential .* 2 or more are needed; name the modules .* 0 \(8 x 16"),
        (headless, StageError, r"gives \(2, 512\) for 2 images and has no classifier head after layer4"),
        (Pair, ConfigError, "the network gives a tuple of 2, not logits; take a network with one output"),
        (Sentences, StageError, r"Sentences does not answer images of shape \(2, 3, 32, 32\): .*give the input_size"),
        (lazy, StageError, "is not built yet .a lazy layer.; run the network once"),
        (lambda: torch.compile(Small()), StageError, "is compiled already; give the plain one"),
        (lambda: torch.nn.Linear(4, 4), StageError, "Linear does not answer images"),
    ],
)
def test_a_network_that_is_none_of_images_in_stages(
    make: Callable[[], nn.Module], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        boosted(make())


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"num_classes": 7}, ConfigError, "num_classes is 7, but the network gives 5 logits"),
        ({"stages": ["one", "to"]}, UnknownName, "unknown module 'to'; did you mean 'two'"),
        ({"stages": ["two", "one"]}, StageError, "the network runs them as one, two"),
        ({"stages": ["one", "classifier"]}, StageError, "module 'classifier' gives no feature map"),
        ({"method": "dml"}, ConfigError, "the method dml trains two networks; take 'metadistiller train --method dml'"),
        ({"method": "kd"}, ConfigError, "the method kd learns from a teacher; give teacher="),
        ({"method": "fitnet", "teacher": Small()}, ConfigError, "hint_epochs .* or --method.two_stage false"),
        ({"teacher": Small()}, ConfigError, "the method metadistiller has no teacher"),
        ({"alpa": 0.5}, UnknownName, "did you mean 'alpha'"),
        ({"lookahead": "shared"}, ConfigError, "lookahead is 'shared'; here it is own always"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        boosted(**options)


def test_a_module_that_is_called_twice_ends_no_stage() -> None:
    with pytest.raises(StageError, match="module 'one' is called several times in a run"):
        boosted(Repeated(), stages=["one", "two"])


def test_sizes_and_steps_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match=r"input_size is 'big'|input_size is \[3\]"):
        boost(Small(), input_size=[3])
    with pytest.raises(ConfigError, match="inner_lr is -1; take the student's current learning rate"):
        boosted().meta_loss(batch(), batch(1), inner_lr=-1)
    with pytest.raises(ConfigError, match="generator_warmup_epochs is 3; epochs are those of"):
        boosted(generator_warmup_epochs=3)
    with pytest.raises(ConfigError, match="this method has no generator that learns"):
        boosted(method="dsn").meta_loss(batch(), batch(1), inner_lr=0.1)


def test_with_a_teacher() -> None:
    made = boosted(method="kd", teacher=Small()).train()
    made.loss(*batch()).backward()
    assert {name.split(".")[0] for name, _ in made.method.players()["student"].module.named_parameters()} == {"network"}
    assert metadistiller.boost is boost
