"""What a run says was asked for: that, and nothing that came by itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import assemble, recipe
from metadistiller.building import changed, written_out
from metadistiller.config import Choice, Config, Teacher
from metadistiller.records import RunFolder


def of(config: Config) -> dict[str, Any]:
    """As a run has it: written out, with what a machine decides."""
    machine = {"device": "cpu", "precision": "float32", "memory_format": "contiguous", "threads": 1}
    return changed(replace(written_out(config), **machine))


@pytest.mark.parametrize("name", ["digits", "cifar100"])
def test_a_recipe_called_as_its_data_has_changed_nothing(name: str) -> None:
    assert of(recipe(name)) == {}


def test_what_was_asked_for_is_there_and_nothing_else() -> None:
    config = recipe("digits")
    method = Choice(name="metadistiller", options={"alpha": 0.75})
    config = replace(config, epochs=3, seed=4, method=method, optim=replace(config.optim, lr=0.01))
    assert of(config) == {"method.alpha": 0.75, "epochs": 3, "seed": 4, "optim.lr": 0.01}


def test_another_member_counts_from_its_own_defaults() -> None:
    config = replace(
        recipe("digits"),
        model=Choice(name="resnet18"),
        method=Choice(name="kd", options={"temperature": 7.0}),
        teacher=Teacher(name="resnet10", options={"width": 4}),
    )
    assert of(config) == {
        "model": "resnet18",
        "method": "kd",
        "method.temperature": 7.0,
        "teacher": "resnet10",
        "teacher.width": 4,
    }


def test_a_run_says_it_when_it_begins_and_what_rate_each_player_had(tiny_config: Config, tmp_path: Path) -> None:
    assemble.train(replace(tiny_config, epochs=1), tmp_path / "run", quiet=True)
    (start,) = [event for event in RunFolder(tmp_path / "run").read_events() if event["event"] == "start"]
    assert json.loads(json.dumps(start["changed"])) == {
        "data.train_per_class": 4,
        "model.width": 4,
        "method.meta_every_epochs": 2,
        "method.generator_lr": 0.01,
        "optim.schedule": "step",
        "optim.warmup_epochs": 0.0,
        "epochs": 1,
        "batch_size": 16,
        "eval_batch_size": 400,
    }
    (row,) = RunFolder(tmp_path / "run").read_rows()
    assert (float(row["lr"]), float(row["generator_lr"])) == (0.05, 0.01)
