"""Fine-tuning: where the weights come from, what stays as it is, and how fast the rest moves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import metadistiller.nn.backbones.torchvision as family
from metadistiller import evaluate_run, export, recipe, resume, train
from metadistiller.building import build_method, load_data
from metadistiller.config import Choice, Config
from metadistiller.engine.optim import PlayerOptimizer
from metadistiller.engine.start import load_start
from metadistiller.errors import ConfigError, DataError, Paused, UnknownName
from metadistiller.methods import Player
from metadistiller.nn import build_network
from metadistiller.records import RunFolder
from metadistiller.settings import parse

METHODS = [
    ("plain", {}),
    ("dsn", {}),
    ("metadistiller", {"lookahead": "shared", "meta_every_epochs": 1}),
    ("metadistiller", {"lookahead": "own", "meta_every_epochs": 1}),
]


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, epochs=1)


def weights_of(config: Config, folder: Path, classes: int = 10, seed: int = 7) -> Path:
    torch.manual_seed(seed)
    state = build_network(config.model, classes).plain.state_dict()
    path = folder / f"weights-{classes}.safetensors"
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
    return path


# Where the weights come from


def test_a_run_begins_with_the_weights_of_a_file(short: Config, tmp_path: Path) -> None:
    path = weights_of(short, tmp_path)
    method = build_method(short, load_data(short.data))
    found = load_start(method, replace(short, weights=str(path)))
    assert found is not None
    assert found["fresh"] == []
    stored = load_file(path)
    assert all(torch.equal(value, stored[key]) for key, value in method.deployable().plain.state_dict().items())


def test_a_head_of_other_classes_begins_anew_and_all_else_does_not(short: Config, tmp_path: Path) -> None:
    path = weights_of(short, tmp_path, classes=7)
    method = build_method(short, load_data(short.data))
    before = {key: value.clone() for key, value in method.deployable().plain.state_dict().items()}
    found = load_start(method, replace(short, weights=str(path)))
    assert found is not None
    assert found["fresh"] == ["fc.weight", "fc.bias"]
    stored = load_file(path)
    for key, value in method.deployable().plain.state_dict().items():
        assert torch.equal(value, before[key] if key in found["fresh"] else stored[key])


def test_the_run_records_what_it_began_with_and_needs_the_file_no_more(short: Config, tmp_path: Path) -> None:
    config = replace(short, epochs=2, weights=str(weights_of(short, tmp_path)))
    whole = train(config, tmp_path / "whole", quiet=True)
    (event,) = [e for e in RunFolder.open(whole.folder).read_events() if e["event"] == "initial_weights"]
    assert event["source"] == config.weights
    assert len(event["sha256"]) == 64
    asked = iter([False] * 2 + [True] * 100)
    with pytest.raises(Paused, match="stopped in time"):
        train(config, tmp_path / "halves", quiet=True, stop=lambda: next(asked))
    Path(config.weights or "").unlink()
    halves = resume(tmp_path / "halves", quiet=True)
    one, two = (load_file(run.folder / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert evaluate_run(halves.folder)[1].final == whole.result["final"]
    assert export(halves.folder).proof.count == 797


def test_drawn_weights_are_another_beginning(short: Config, tmp_path: Path) -> None:
    path = weights_of(short, tmp_path)
    method = build_method(short, load_data(short.data))
    assert load_start(method, short) is None
    stored = load_file(path)
    assert not torch.equal(method.deployable().plain.state_dict()["fc.weight"], stored["fc.weight"])


def test_published_weights_are_the_family_s(short: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(short, model=Choice(name="torchvision/shufflenet_v2_x0_5"), pretrained=True)
    torch.manual_seed(9)
    state = build_network(config.model, 1000).plain.state_dict()
    monkeypatch.setattr(family, "pretrained_weights", lambda options: state)
    method = build_method(config, load_data(config.data))
    found = load_start(method, config)
    assert found == {
        "source": "published weights of torchvision/shufflenet_v2_x0_5",
        "sha256": None,
        "fresh": ["fc.weight", "fc.bias"],
    }
    assert torch.equal(method.deployable().plain.state_dict()["conv5.0.weight"], state["conv5.0.weight"])


def test_weights_that_cannot_be_had_are_said_with_the_other_way(short: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> object:
        raise OSError("Name or service not known")

    monkeypatch.setattr(family.models, "get_model_weights", offline)
    config = replace(short, model=Choice(name="torchvision/resnet18"), pretrained=True)
    said = r"weights of resnet18 cannot be had, from .* or by download \(OSError: Name or .*--weights FILE"
    with pytest.raises(DataError, match=said):
        load_start(build_method(config, load_data(config.data)), config)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"pretrained": True}, ConfigError, "nobody publishes weights of resnet10; take timm/NAME"),
        ({"weights": "nowhere.safetensors"}, DataError, r"nowhere\.safetensors: there is no such file"),
        ({"weights": "network.pth"}, DataError, r"network\.pth is a pickle, .*save_file"),
        ({"model": Choice(name="resnet10", options={"width": 8})}, ConfigError, "is not of this network: .* there and"),
        ({"model": Choice(name="wrn10_1")}, ConfigError, "is not of this network: .* is missing and [0-9]+ more"),
    ],
)
def test_what_cannot_be_begun_with(
    change: dict[str, object], error: type[Exception], told: str, short: Config, tmp_path: Path
) -> None:
    weights = None if "pretrained" in change else str(weights_of(short, tmp_path))
    config = replace(short, **{"weights": weights, **change})  # type: ignore[arg-type]
    with pytest.raises(error, match=told):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_file_and_published_weights_are_not_both(short: Config) -> None:
    with pytest.raises(ConfigError, match="weights is 'a'; give it or --pretrained, not both"):
        replace(short, weights="a", pretrained=True)


def test_words_for_fine_tuning() -> None:
    words = ["--pretrained", "--freeze", "stem,layer1", "--optim.backbone_lr_factor", "0.1"]
    config = parse(words, command="metadistiller train").config
    assert config.pretrained
    assert config.freeze == ("stem", "layer1")
    assert config.optim.backbone_lr_factor == 0.1
    assert parse(["--freeze=layer1"], command="metadistiller train").config.freeze == ("layer1",)
    assert not recipe("digits").pretrained


# What stays as it is


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_frozen_weights_and_statistics_do_not_change_by_a_bit(
    name: str, options: dict[str, object], short: Config, tmp_path: Path
) -> None:
    config = replace(short, epochs=2, method=Choice(name=name, options=options), freeze=("layer1", "bn1"))
    begun = build_method(config, load_data(config.data)).deployable().plain.state_dict()
    ended = load_file(train(config, tmp_path / "run", quiet=True).folder / "model.safetensors")
    frozen = [key for key in begun if key.startswith(("layer1.", "bn1."))]
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(begun[key], ended[key]) for key in frozen)
    moved = [key for key in begun if key.startswith(("layer2.", "fc.")) and "num_batches" not in key]
    assert not any(torch.equal(begun[key], ended[key]) for key in moved)


def test_the_generator_learns_nothing_where_all_that_eq_8_looks_at_is_frozen(short: Config, tmp_path: Path) -> None:
    everything = ("conv1", "bn1", "layer1", "layer2", "layer3")
    config = replace(short, freeze=everything)
    trained = train(config, tmp_path / "run", quiet=True)
    (row,) = RunFolder.open(trained.folder).read_rows()
    assert float(row["generator_gradient_norm"]) == 0.0


@pytest.mark.parametrize(
    ("names", "error", "told"),
    [
        (("layer9",), UnknownName, "unknown module to freeze 'layer9'; did you mean 'layer"),
        (("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"), ConfigError, "leave a part to learn"),
    ],
)
def test_what_cannot_be_frozen(names: tuple[str, ...], error: type[Exception], told: str, short: Config) -> None:
    with pytest.raises(error, match=told):
        build_method(replace(short, freeze=names), load_data(short.data))


# How fast the rest moves


def test_the_factor_is_that_of_the_body_s_step_and_nobody_else_s(short: Config) -> None:
    steps = {}
    for factor in (1.0, 0.1):
        optim = replace(short.optim, backbone_lr_factor=factor, weight_decay=0.0)
        torch.manual_seed(0)
        head, body = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        both = torch.nn.ModuleDict({"head": head, "body": body})
        before = {name: p.detach().clone() for name, p in both.named_parameters()}
        optimizer = PlayerOptimizer(Player(both, "sgd"), optim, body.parameters())
        optimizer.differentiate(torch.stack([p.sum() for p in both.parameters()]).sum())
        optimizer.move(factor=1.0)
        steps[factor] = {name: p.detach() - before[name] for name, p in both.named_parameters()}
    for name, step in steps[0.1].items():
        expected = steps[1.0][name] * (0.1 if name.startswith("body") else 1.0)
        torch.testing.assert_close(step, expected)


def test_a_run_with_a_factor_resumes_to_the_same_bits(short: Config, tmp_path: Path) -> None:
    config = replace(short, epochs=2, optim=replace(short.optim, backbone_lr_factor=0.1))
    whole = train(config, tmp_path / "whole", quiet=True)
    asked = iter([False] * 4 + [True] * 100)
    with pytest.raises(Paused, match="stopped in time"):
        train(config, tmp_path / "halves", quiet=True, stop=lambda: next(asked))
    halves = resume(tmp_path / "halves", quiet=True)
    one, two = (load_file(run.folder / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(one[key], two[key]) for key in one)
