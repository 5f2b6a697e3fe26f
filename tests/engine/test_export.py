"""What is exported is the plain network, and it answers as the trained one does, to the last bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision import models

from metadistiller import assemble, building, exporting
from metadistiller.config import Choice, Config
from metadistiller.data import evaluation_images
from metadistiller.engine.export import load_network, save_network
from metadistiller.engine.export import safetensors as exports
from metadistiller.errors import CheckpointError, ExportError
from metadistiller.inspection import inspect
from metadistiller.nn import build_network


@pytest.fixture
def run(tiny_config: Config, tmp_path: Path) -> Path:
    return assemble.train(tiny_config, tmp_path / "run", quiet=True).folder


def test_the_exported_network_answers_as_the_trained_one_bit_for_bit(run: Path, tmp_path: Path) -> None:
    done = exporting.export(run, tmp_path / "out" / "net.safetensors")
    path = done.path
    assert (done.proof.count, done.proof.gap) == (797, 0)
    found = assemble.restore(run)
    dataset, method = found.dataset, found.method.eval()
    images = evaluation_images(dataset.test.images[:50], dataset)
    with torch.no_grad():
        assert torch.equal(load_network(path).network(images), method.exits(images)[-1])
    assert path.read_bytes() == (run / "model.safetensors").read_bytes()


def test_no_exit_and_no_generator_weight_is_inside(run: Path, tiny_config: Config) -> None:
    with safe_open(run / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        header = json.loads(file.metadata()["network"])
        parameters = sum(
            file.get_tensor(n).numel() for n in names if not n.endswith(("running_mean", "running_var", "tracked"))
        )
    assert not [name for name in names if "exit" in name or "generator" in name or "lateral" in name]
    assert parameters == inspect(tiny_config.model, num_classes=10)["parameters"]
    assert header["model"] == {"name": "resnet10", "stem": "cifar", "width": 4}
    assert (header["classes"][7], header["size"]) == ("7", [32, 32])


def test_what_ships_of_a_network_of_torchvision_loads_there_and_here(tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, model=Choice(name="torchvision/resnet18"))
    dataset = building.load_data(config.data)
    trained = build_network(config.model, dataset.num_classes).eval()
    save_network(trained, tmp_path / "net.safetensors", config=config, dataset=dataset)
    theirs = models.resnet18(weights=None, num_classes=dataset.num_classes).eval()
    theirs.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)
    images = evaluation_images(dataset.test.images[:4], dataset)
    with torch.no_grad():
        logits = trained(images)
        assert torch.equal(theirs(images), logits)
        assert torch.equal(load_network(tmp_path / "net.safetensors").network(images), logits)


def test_an_export_that_differs_in_one_bit_is_refused_and_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Callable[..., exports.NetworkFile] = exports.load_network

    def tampered(path: Path) -> exports.NetworkFile:
        file = whole(path)
        with torch.no_grad():
            file.network.fc.bias[0] += 1e-3
        return file

    monkeypatch.setattr(exports, "load_network", tampered)
    (tmp_path / "net.safetensors").write_text("an earlier export")
    with pytest.raises(ExportError, match="nothing was exported"):
        exporting.export(run, tmp_path / "net.safetensors")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["net.safetensors"]
    assert (tmp_path / "net.safetensors").read_text() == "an earlier export"


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"hello", lambda data: b""])
def test_a_damaged_file_is_refused_by_name(run: Path, damage: Callable[[bytes], bytes]) -> None:
    path = run / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_network(path)


def test_batch_statistics_are_those_of_training_without_meta_steps(tiny_config: Config, tmp_path: Path) -> None:
    """Look-ahead and held-out passes must not leak into what ships.

    At alpha = 1 the generator teaches nothing, so a run with meta steps must ship the network of a run without any.
    """
    shipped = []
    for every in (1, 1000):
        options = {"alpha": 1.0, "meta_every_epochs": every}
        config = replace(tiny_config, method=Choice(name="metadistiller", options=options))
        folder = assemble.train(config, tmp_path / str(every), quiet=True).folder
        shipped.append((folder / "model.safetensors").read_bytes())
    assert shipped[0] == shipped[1]
