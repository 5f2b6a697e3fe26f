"""Laws of answering early, over every family of ours and over networks that are not ours."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metadistiller import EarlyExitClassifier, load_early_exit
from metadistiller.config import Choice
from metadistiller.data import Preparation
from metadistiller.engine.early_exit import Shown, save_early_exit
from metadistiller.engine.tensor_file import read_tensor_file
from metadistiller.errors import CheckpointError, ConfigError, StageError
from metadistiller.meta._forward_mode import plain_attention
from metadistiller.nn import Adapter, MultiExit, adapt, exit_costs
from metadistiller.nn.backbones._taps import Stage
from metadistiller.outcomes import Outcomes
from metadistiller.outcomes.policy import Policy, choices, confidences, simulate, uniform

from .nets import TINY, network, noise
from .test_discovery import TINY as FOREIGN
from .test_discovery import tiny

COUNT = 12


def shown_of(size: tuple[int, int], num_classes: int) -> Shown:
    return Shown(
        classes=tuple(map(str, range(num_classes))),
        size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.3),
        preparation=Preparation(crop=size),
    )


class Scene:
    """A student with exits, images, and what all of its outputs say of them.

    Attributes:
        logits: K times (N, C), of the whole pass.
        said: the same with the costs, the labels being no more than numbers.
    """

    def __init__(self, student: MultiExit, size: tuple[int, int], images: Tensor) -> None:
        self.student, self.size, self.images = student, size, images
        self.shown = shown_of(size, student.backbone.num_classes)
        with torch.no_grad():
            self.logits = student(images)[1]
        costs = exit_costs(student, size)
        self.said = Outcomes(
            logits=torch.stack(self.logits).numpy(),
            labels=np.arange(len(images)) % student.backbone.num_classes,
            index=np.arange(len(images)),
            total=len(images),
            trunk_macs=costs.trunk,
            exit_macs=costs.exits,
        )

    def classifier(self, *thresholds: float | None) -> EarlyExitClassifier:
        return EarlyExitClassifier(self.student, self.policy(*thresholds), self.shown)

    def policy(self, *thresholds: float | None) -> Policy:
        number = len(self.student.exits)
        return Policy(
            temperatures=tuple(0.5 + 0.3 * k for k in range(number + 1)),
            thresholds=thresholds if len(thresholds) == number else thresholds * number,
        )

    def mixed(self) -> Policy:
        """Of those that come to an exit about a half leaves, and no confidence is near a threshold."""
        certain = confidences(self.said, self.policy(None).temperatures)
        rest, thresholds = np.arange(len(self.images)), []
        for each in certain[:-1]:
            ordered = np.sort(each[rest])
            gaps = np.diff(ordered)
            middle = len(gaps) // 4 + int(gaps[len(gaps) // 4 : 3 * len(gaps) // 4 + 1].argmax()) if len(gaps) else 0
            thresholds.append(float(ordered[middle : middle + 2].mean()) if len(gaps) else None)
            if thresholds[-1] is not None:
                rest = rest[each[rest] < thresholds[-1]]
        return self.policy(*thresholds)


def _scene(student: MultiExit, size: tuple[int, int], images: Tensor) -> Scene:
    with torch.no_grad():
        for exit_, logits in zip(student.exits, student.eval()(images)[1], strict=False):
            # As if trained: confidences between 1/C and 1, that differ from image to image.
            for parameter in list(exit_.modules())[-1].parameters():
                parameter.div_(logits.std())
    return Scene(student, size, images)


def made(name: str, options: dict[str, object] | None) -> Scene:
    if options is None:
        size = (32, 32)
        return _scene(MultiExit(adapt(tiny(name).eval(), size=size), size), size, noise(COUNT, 3, *size).double())
    size = (64, 64)
    return _scene(MultiExit(network(name, options), size), size, noise(COUNT, 3, *size))


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(each.values, id=str(each.id)) for each in TINY),
        *(pytest.param((name, None), id=f"timm-{name}") for name in FOREIGN),
    ],
)
def scene(request: pytest.FixtureRequest) -> Scene:
    return made(*request.param)


@pytest.fixture(scope="module")
def resnet() -> Scene:
    return made("resnet10", {"width": 4})


# What every family promises


def test_threshold_nought_is_the_first_exit_alone(scene: Scene) -> None:
    found = scene.classifier(0.0)(scene.images)
    assert found.exits.tolist() == [0] * COUNT
    assert torch.equal(found.logits, scene.logits[0])


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_where_nobody_leaves_it_is_the_plain_network_to_the_bit(scene: Scene, threshold: float | None) -> None:
    found = scene.classifier(threshold)(scene.images)
    assert found.exits.tolist() == [len(scene.student.exits)] * COUNT
    with torch.no_grad():
        assert torch.equal(found.logits, scene.student.backbone(scene.images))
    assert torch.equal(found.answers, found.logits.argmax(1))


def test_a_batch_is_answered_as_its_images_one_by_one(scene: Scene) -> None:
    classifier = EarlyExitClassifier(scene.student, scene.mixed(), scene.shown)
    together = classifier(scene.images)
    assert len(set(together.exits.tolist())) >= 2
    for row in range(COUNT):
        alone = classifier(scene.images[row : row + 1])
        assert int(alone.exits) == int(together.exits[row])
        assert int(alone.answers) == int(together.answers[row])
        assert torch.allclose(alone.probabilities[0], together.probabilities[row], atol=1e-4)


def test_each_image_gets_what_its_output_says_of_it(scene: Scene) -> None:
    policy = scene.mixed()
    found = EarlyExitClassifier(scene.student, policy, scene.shown)(scene.images)
    expected = choices(confidences(scene.said, policy.temperatures), policy.thresholds)
    assert found.exits.tolist() == expected.tolist()
    for row, k in enumerate(expected.tolist()):
        logits = scene.logits[k][row]
        assert torch.allclose(found.logits[row], logits, atol=1e-4 * float(logits.abs().max()))
        probabilities = (found.logits[row].double() / policy.temperatures[k]).softmax(0).float()
        assert torch.allclose(found.probabilities[row], probabilities, atol=1e-6)
    assert torch.equal(found.answers, found.probabilities.argmax(1))


def test_what_runs_is_what_was_counted(scene: Scene) -> None:
    """To the last multiply-accumulate, of modules that ran."""
    number = len(scene.student.exits)
    for policy in (scene.mixed(), scene.policy(0.0), scene.policy(None), scene.policy(*(None,) * (number - 1), 0.0)):
        classifier = EarlyExitClassifier(scene.student, policy, scene.shown)
        # Fused attention is not in the counter's list on a processor.
        with plain_attention(), FlopCounterMode(display=False) as counter:
            classifier(scene.images)
        assert counter.get_total_flops() / 2 == pytest.approx(simulate(scene.said, policy).macs * COUNT, abs=0.5)


# What is the same for all


def calls(module: nn.Module) -> list[int]:
    """How many rows each call of the module had, as they come."""
    seen: list[int] = []
    module.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    return seen


def test_exits_that_are_not_used_and_stages_that_nobody_needs_do_not_run() -> None:
    scene = made("resnet10", {"width": 4})
    classifier = scene.classifier(None, 0.0, None)
    exits, head = [calls(exit_) for exit_ in scene.student.exits], calls(scene.student.backbone.fc)  # type: ignore[arg-type]
    found = classifier(scene.images)
    assert exits == [[], [COUNT], []]
    assert head == []
    assert set(found.exits.tolist()) == {1}


def test_later_stages_see_the_images_that_stayed_and_keep_their_memory_format() -> None:
    scene = made("resnet10", {"width": 4})
    policy = scene.mixed()
    classifier = EarlyExitClassifier(scene.student, policy, scene.shown).to(memory_format=torch.channels_last)
    formats: list[bool] = []
    exits = [calls(exit_) for exit_ in scene.student.exits]
    for part in scene.student.backbone.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(
                lambda module, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    left = simulate(scene.said, policy).left
    classifier(scene.images.contiguous(memory_format=torch.channels_last))
    assert exits == [[COUNT], [COUNT - left[0]], [COUNT - left[0] - left[1]]]
    assert all(formats)


def test_no_image_has_no_answer(resnet: Scene) -> None:
    found = resnet.classifier(0.5)(resnet.images[:0])
    assert [tuple(each.shape) for each in found] == [(0, 10), (0, 10), (0,), (0,)]


def test_training_mode_and_policies_of_another_number_are_refused(resnet: Scene) -> None:
    with pytest.raises(ConfigError, match="of 2 outputs, the network has 4"):
        EarlyExitClassifier(resnet.student, uniform(2, 0.5), resnet.shown)
    classifier = resnet.classifier(0.5).train()
    with pytest.raises(ConfigError, match="training mode"):
        classifier(resnet.images)
    assert not resnet.classifier(0.5).training


def test_another_policy_has_the_same_weights(resnet: Scene) -> None:
    one = resnet.classifier(0.0)
    other = one.with_policy(resnet.policy(None))
    assert other.student is one.student
    assert (one(resnet.images).exits == 0).all()
    assert (other(resnet.images).exits == 3).all()


class Carrying(nn.Module):
    """Two stages and a head; besides the map, something goes on by another way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(6, 5)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        # Of the stage's module itself, so that what a visitor puts in its place does not change it.
        aside = images.mean((1, 2, 3))[:, None] if self.way == "rows" else images.mean()
        x = self.second(x).mean((2, 3))
        if self.way == "size":
            return self.fc(x) * len(x)
        return self.fc(x + 3 * aside) if self.way == "rows" else self.fc(x)


@pytest.mark.parametrize("way", ["rows", "size"])
def test_a_network_that_counts_on_every_row_is_refused(way: str) -> None:
    backbone = Adapter(Carrying(way), (Stage("first"), Stage("second")), 5, total_stride=4, usual_size=(16, 16))
    with pytest.raises(StageError, match="images cannot leave this network"):
        EarlyExitClassifier(MultiExit(backbone, (16, 16)), uniform(2, 0.5), shown_of((16, 16), 5))


def test_the_same_network_without_that_is_taken() -> None:
    backbone = Adapter(Carrying(""), (Stage("first"), Stage("second")), 5, total_stride=4, usual_size=(16, 16))
    EarlyExitClassifier(MultiExit(backbone, (16, 16)), uniform(2, 0.5), shown_of((16, 16), 5))


# The file

CHOICE = Choice(name="resnet10", options={"width": 4})


@pytest.fixture
def file(resnet: Scene, tmp_path: Path) -> Path:
    save_early_exit(EarlyExitClassifier(resnet.student, resnet.mixed(), resnet.shown), tmp_path / "e", model=CHOICE)
    return tmp_path / "e"


def test_what_was_saved_answers_to_the_bit_and_gives_the_same_bytes(resnet: Scene, file: Path) -> None:
    found = load_early_exit(file)
    expected = EarlyExitClassifier(resnet.student, resnet.mixed(), resnet.shown)
    for ours, theirs in zip(found(resnet.images), expected(resnet.images), strict=True):
        assert torch.equal(ours, theirs)
    assert (found.policy, found.shown) == (expected.policy, resnet.shown)
    save_early_exit(found, file.with_name("again"), model=CHOICE)
    assert file.read_bytes() == file.with_name("again").read_bytes()


@pytest.mark.parametrize("name", ["torchvision/shufflenet_v2_x0_5", "vgg11_bn"])
def test_inner_widths_and_networks_of_others_come_back(name: str, tmp_path: Path) -> None:
    options: dict[str, object] = {"width": 4} if name == "vgg11_bn" else {}
    width = None if name == "vgg11_bn" else 3
    student = MultiExit(network(name, options), (32, 32), inner_width=width)
    scene = Scene(student.eval(), (32, 32), noise(4, 3, 32, 32))
    save_early_exit(scene.classifier(0.5), tmp_path / "e", model=Choice(name=name, options=options))
    found = load_early_exit(tmp_path / "e")
    assert found.student.inner_width == width
    for ours, theirs in zip(found(scene.images), scene.classifier(0.5)(scene.images), strict=True):
        assert torch.equal(ours, theirs)


def same_length(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new.ljust(len(old)))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], "cannot be read"),
        (lambda data: b"", "cannot be read"),
        (same_length(b'"early_exit"', b'"other_data"'), "holds no early-exit network"),
        (same_length(b"temperatures", b"temperaturez"), "damaged header"),
        (same_length(b"[0.5, ", b"[0.0, "), "damaged header .*temperature is 0"),
        (same_length(b"[64, 64]", b"[9e9, 9]"), "damaged header .*pixels"),
        (same_length(b"resnet10", b"resnet99"), "cannot be built"),
        (same_length(b"resnet10", b"resnet18"), "does not hold the network"),
        (same_length(b"exits.2.fc.bias", b"exits.2.fc.bibs"), "does not hold the network"),
    ],
)
def test_damage_is_refused_by_name(file: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_early_exit(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "resnet10", "width": 10**5}}, "does not hold the network that it names"),
        ({"model": {"name": "resnet10", "width": 10**20}}, "cannot be built"),
        ({"model": []}, "damaged header"),
        (None, "damaged header .RecursionError"),
    ],
)
def test_a_header_takes_no_more_than_its_file_holds(file: Path, change: dict[str, object] | None, message: str) -> None:
    metadata, tensors = read_tensor_file(file)
    text = "[" * 100_000 if change is None else json.dumps(json.loads(metadata["early_exit"]) | change)
    save_file(tensors, file, {"early_exit": text})
    with pytest.raises(CheckpointError, match=message):
        load_early_exit(file)
