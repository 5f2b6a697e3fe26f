"""A profile accounts for the time of a run, and changes nothing of it."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metadistiller import assemble
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine.machine import Machine
from metadistiller.engine.profile import stopwatch_of
from metadistiller.errors import Paused
from metadistiller.records import RunFolder
from metadistiller.timing import OTHER, Profile, profile_of

ALWAYS = {"data", "student", "evaluation", "checkpoints", OTHER}
META = {"generator", "held-out", "forward-mode"}


def profile(folder: Path) -> Profile:
    found = profile_of(RunFolder(folder).read_events())
    assert found is not None
    return found


def calls(folder: Path) -> dict[str, int]:
    return {part.name: part.calls for part in profile(folder).parts}


class After:
    """Says stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("plain", {}, ALWAYS),
        ("dml", {}, ALWAYS | {"peer"}),
        ("metadistiller", {"lookahead": "shared"}, ALWAYS | META),
        ("metadistiller", {"lookahead": "own"}, ALWAYS | META | {"look-ahead"}),
    ],
)
def test_every_second_is_in_one_part(
    name: str, options: Mapping[str, Any], parts: set[str], tiny_config: Config, tmp_path: Path
) -> None:
    config = replace(tiny_config, method=Choice(name=name, options=options))
    began = time.perf_counter()
    trained = assemble.train(config, tmp_path / "run", quiet=True, profile=True)
    wall = time.perf_counter() - began
    found = profile(trained.folder)
    assert {part.name for part in found.parts} == parts
    assert math.isclose(sum(found.share(part) for part in found.parts), 100)
    assert 0.9 * trained.result["seconds"] <= found.seconds <= wall
    # Three steps in each of three epochs; the loss and the update.
    assert calls(trained.folder)["student"] == 2 * 9
    assert calls(trained.folder)["checkpoints"] == 3
    # After each epoch, and the soft targets of the end.
    assert calls(trained.folder)["evaluation"] == 4
    assert found.coverage(trained.result["seconds"]) == f"over {found.seconds:,.1f} s"


def test_a_profile_changes_no_bit(tiny_config: Config, tmp_path: Path) -> None:
    runs = {
        asked: assemble.train(tiny_config, tmp_path / str(asked), quiet=True, profile=asked).folder
        for asked in (True, False)
    }
    for name in (
        "model.safetensors",
        "results.csv",
        "config.yaml",
        "evaluation.json",
        "soft_targets.json",
        "outcomes.safetensors",
    ):
        assert (runs[True] / name).read_bytes() == (runs[False] / name).read_bytes(), name
    assert profile_of(RunFolder(runs[False]).read_events()) is None


def test_a_resumed_run_adds_up(tiny_config: Config, tmp_path: Path) -> None:
    """Stopped inside a meta epoch, and once more between two epochs."""
    whole = assemble.train(tiny_config, tmp_path / "whole", quiet=True, profile=True).folder
    broken = tmp_path / "broken"
    with pytest.raises(Paused):
        assemble.train(tiny_config, broken, quiet=True, profile=True, stop=After(0))
    with pytest.raises(Paused):
        assemble.resume(broken, quiet=True, profile=True, stop=After(1))
    result = assemble.resume(broken, quiet=True, profile=True).result
    kinds = [event["event"] for event in RunFolder(broken).read_events() if event["event"] != "epoch"]
    assert kinds == ["start", "profile", "pause", "resume", "profile", "pause", "resume", "profile", "finish"]
    found, expected = profile(broken), calls(whole)
    # One more checkpoint for the stop inside an epoch; OTHER begins with each process.
    assert calls(broken) == expected | {"checkpoints": expected["checkpoints"] + 1, OTHER: 3}
    assert (found.sittings, found.all_sittings) == (3, 3)
    assert found.seconds >= 0.9 * result["seconds"]


def test_a_sitting_that_was_not_measured_is_told(tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, method=Choice(name="plain"))
    with pytest.raises(Paused):
        assemble.train(config, tmp_path / "run", quiet=True, stop=After(4))
    result = assemble.resume(tmp_path / "run", quiet=True, profile=True).result
    found = profile(tmp_path / "run")
    assert found.seconds < result["seconds"]
    assert found.coverage(result["seconds"]).endswith(f" of {result['seconds']:,.1f} s, in 1 of 2 sittings")


def test_of_a_sitting_that_was_killed_nothing_is_told(tiny_config: Config, tmp_path: Path) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble.train(tiny_config, tmp_path / "run", quiet=True, profile=True, stop=interrupt)
    assert profile_of(RunFolder(tmp_path / "run").read_events()) is None


def test_a_teacher_that_is_trained_first_is_measured_too(tiny_config: Config, tmp_path: Path) -> None:
    teacher = Teacher(name="resnet10", options={"width": 4})
    config = replace(tiny_config, method=Choice(name="kd"), teacher=teacher, epochs=1)
    trained = assemble.train(config, tmp_path / "run", quiet=True, profile=True)
    for folder in (trained.folder, trained.folder / "teacher"):
        assert {part.name for part in profile(folder).parts} == ALWAYS


def test_only_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for name, times in (("cpu", 0), ("cuda:1", 2)):
        with stopwatch_of(Machine(torch.device(name), False, False)).part("a"):
            pass
        assert waited == times * [torch.device(name)]
