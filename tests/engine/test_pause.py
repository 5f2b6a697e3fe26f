"""A run that is stopped between two steps loses nothing; what layers draw depends on the place in training alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metadistiller import assemble, building
from metadistiller.cli import main
from metadistiller.config import Choice, Config
from metadistiller.engine.machine import Machine, resolve
from metadistiller.engine.step import Stepper
from metadistiller.errors import Paused
from metadistiller.nn import Backbone, build_network
from metadistiller.records import RunFolder
from metadistiller.report._charts import drawing
from metadistiller.report._curves import _speed
from metadistiller.report._reading import read
from metadistiller.report._tables import cost


def bits(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "results.csv", "evaluation.json")]


class After:
    """Says stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("asked", [0, 1, 2, 4])
def test_a_run_stopped_anywhere_ends_with_the_same_bits(asked: int, tiny_config: Config, tmp_path: Path) -> None:
    """Three steps an epoch: asked after the first two of each, and before the next epoch. The run saves by itself."""
    whole = assemble.train(tiny_config, tmp_path / "whole", quiet=True).folder
    broken = tmp_path / "broken"
    with pytest.raises(Paused, match="stopped in time"):
        assemble.train(tiny_config, broken, quiet=True, stop=After(asked))
    events = list(RunFolder(broken).read_events())
    assert [event["event"] for event in events].count("pause") == 1
    epoch, step = divmod(asked + 1, 3)
    assert (events[-1]["event"], events[-1]["epoch"], events[-1]["step"]) == ("pause", epoch, step)
    with pytest.raises(Paused):
        assemble.resume(broken, quiet=True, stop=After(1))
    assemble.resume(broken, quiet=True)
    assert bits(broken) == bits(whole)


def test_a_last_step_is_not_stopped_before_its_result(tiny_config: Config, tmp_path: Path) -> None:
    """Asked after all but the last step of each epoch, and between epochs: then what is left is no step."""
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, stop=After(8))
    assert RunFolder(trained.folder).finished


def test_a_run_interrupted_at_any_question_ends_with_the_same_bits(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, between steps, between batches of an evaluation and of the examples, before the result."""
    config = replace(tiny_config, method=Choice(name="plain"), epochs=2, eval_batch_size=500)
    asked: list[int] = []
    steps: list[int] = []
    take = Stepper.step

    def step(stepper: Stepper, number: int) -> None:
        steps.append(number)
        take(stepper, number)

    monkeypatch.setattr(Stepper, "step", step)
    whole = assemble.train(config, tmp_path / "whole", quiet=True, interrupted=lambda: bool(asked.append(1))).folder
    table = list(RunFolder(whole).read_rows())
    places = []
    for times in range(len(asked)):
        broken = RunFolder(tmp_path / f"broken-{times}")
        with pytest.raises(Paused, match="stopped in time"):
            assemble.train(config, broken.path, quiet=True, interrupted=After(times))
        pause = list(broken.read_events())[-1]
        assert pause["event"] == "pause"
        places.append((pause["epoch"], pause["step"]))
        assert len(broken.read_rows()) == pause["epoch"]
        before = len(steps)
        assemble.resume(broken.path, quiet=True)
        assert len(steps) - before == 6 - 3 * pause["epoch"] - pause["step"], "a step was taken again"
        assert broken.read_rows() == table
        assert bits(broken.path) == bits(whole), f"differs when interrupted at question {times}"
    # Two batches of test images, and again for the examples.
    evaluated = [(epoch, 3) for epoch in (0, 1) for _ in range(2)]
    assert places == [
        *((0, 0), (0, 1), (0, 2), *evaluated[:2]),
        *((1, 0), (1, 1), (1, 2), *evaluated[2:]),
        *((2, 0), (2, 0), (2, 0)),
    ]


def test_an_epoch_that_is_only_evaluated_has_no_speed(tiny_config: Config, tmp_path: Path) -> None:
    """Two sittings, of which the second takes no step of the last epoch: the report takes the speed of the others."""
    config = replace(tiny_config, method=Choice(name="plain"), evaluate_every=3)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Paused, match="after epoch 2 of 3 and 3 steps, before their evaluation"):
        assemble.train(config, folder.path, quiet=True, interrupted=After(9))
    assemble.resume(folder.path, quiet=True)
    rates = [event["images_per_second"] for event in folder.read_events() if event["event"] == "epoch"]
    assert min(rates[:2]) > 0
    assert rates[2] == 0
    run = read(folder)
    (told,) = (text for name, text in cost(run) if name == "Epochs that train student")
    assert told.startswith("3, each ")
    assert f" at {(rates[0] + rates[1]) / 2:,.0f} images/s" in told
    with drawing():
        (chart,) = _speed(run)
    assert "images per second" in str(chart)


def test_the_command_stops_with_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model.width", "4", "--epochs", "1000", "--evaluate_every", "1000", "--quiet"]
    assert main(["train", *words, "--budget", "0.5s", "--out", "run"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("stopped in time, after ")
    assert "'metadistiller resume run'" in said
    assert main(["resume", "run", "--budget", "0.3s"]) == 3
    assert main(["train", *words, "--budget", "1 minute", "--out", "other"]) == 2
    assert not (tmp_path / "other").exists()


# What layers draw


def with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on networks are built with dropout in the trunk."""

    def build(model: Choice, num_classes: int) -> Backbone:
        network = build_network(model, num_classes)
        network.maxpool = nn.Dropout(0.3)
        return network

    monkeypatch.setattr(building, "build_network", build)


def test_a_network_with_dropout_resumes_bitwise(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_dropout(monkeypatch)
    monkeypatch.setattr("metadistiller.engine.export._header.build_network", building.build_network)
    config = replace(tiny_config, method=Choice(name="dsn"))
    whole = assemble.train(config, tmp_path / "whole", quiet=True).folder
    torch.rand(17)
    broken = tmp_path / "broken"
    with pytest.raises(Paused):
        assemble.train(config, broken, quiet=True, stop=After(3))
    torch.rand(5)
    assemble.resume(broken, quiet=True)
    assert bits(broken) == bits(whole)


def test_draws_are_a_function_of_their_purpose(tiny_config: Config) -> None:
    machine = Machine.of(resolve(tiny_config))

    def drawn(*purpose: Any) -> torch.Tensor:
        with machine.drawing(*purpose):
            return nn.functional.dropout(torch.ones(64), 0.5)

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = drawn(0, "layers", 1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, drawn(0, "layers", 1))
    assert not torch.equal(one, drawn(0, "layers", 2))
    assert not torch.equal(one, drawn(1, "layers", 1))
