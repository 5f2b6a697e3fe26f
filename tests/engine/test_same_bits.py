"""Same seed, same bits: whatever interrupts the run, watches it or looks into it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interruptions import digest

from metadistiller import assemble, building
from metadistiller.config import Choice, Config
from metadistiller.engine import train as engine
from metadistiller.engine.checkpoint import list_checkpoints
from metadistiller.errors import Paused
from metadistiller.records import RunFolder
from small_runs import SIXTEEN_WIDE, Interrupted, interrupt_after, train

METHODS = ("plain", "dsn", "self_distillation", "metadistiller", "residual_metadistiller")
WARMED = Choice(name="metadistiller", options={"meta_every_epochs": 1, "generator_warmup_epochs": 1})
OWN = Choice(name="metadistiller", options={"meta_every_epochs": 2, "generator_lr": 0.01, "lookahead": "own"})


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny_config: Config, tmp_path: Path) -> None:
    one, two = train(tiny_config, tmp_path / "a"), train(tiny_config, tmp_path / "b")
    assert digest(one) == digest(two)
    other = train(replace(tiny_config, seed=1), tmp_path / "c")
    assert digest(one) != digest(other)


def test_methods_of_a_seed_start_from_the_same_network(tiny_config: Config) -> None:
    dataset = building.load_data(tiny_config.data)
    states = [
        building.build_method(replace(tiny_config, method=Choice(name=method)), dataset).deployable().state_dict()
        for method in METHODS
    ]
    for state in states[1:]:
        assert all(torch.equal(states[0][name], value) for name, value in state.items())


@pytest.mark.parametrize("method", [*METHODS, "own", "warmed"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    method: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the middle of epoch 1, and again in epoch 2, with checkpoints at every step."""
    methods = {"metadistiller": tiny_config.method, "own": OWN, "warmed": WARMED}
    config = replace(tiny_config, method=methods.get(method, Choice(name=method)))
    whole = train(config, tmp_path / "whole")
    stepwise = replace(config, checkpoint_every_steps=1)
    broken = tmp_path / "broken"
    interrupt_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(stepwise, broken)
    monkeypatch.undo()
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        assemble.resume(broken, quiet=True)
    monkeypatch.undo()
    assemble.resume(broken, quiet=True)
    assert digest(broken) == digest(whole)


def test_resume_from_every_update_of_a_run_with_two_meta_epochs(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of three steps, 9 student and 6 generator updates: also between the two players of one step."""
    config = replace(tiny_config, evaluate_every=3)
    whole = digest(train(config, tmp_path / "whole"))
    stepwise = replace(config, checkpoint_every_steps=1)
    for updates in range(15):
        broken = tmp_path / f"broken-{updates}"
        interrupt_after(monkeypatch, updates)
        with pytest.raises(Interrupted):
            train(stepwise, broken)
        monkeypatch.undo()
        assemble.resume(broken, quiet=True)
        assert digest(broken) == whole, f"differs when broken off after {updates} updates"


def test_bfloat16_and_channels_last_resume_bitwise_too(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config, model=SIXTEEN_WIDE, precision="bfloat16", memory_format="channels_last")
    whole = train(config, tmp_path / "whole")
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "broken")
    monkeypatch.undo()
    assemble.resume(tmp_path / "broken", quiet=True)
    assert digest(tmp_path / "broken") == digest(whole)


def test_a_killed_process_goes_on_to_the_same_bits(tiny_config: Config, tmp_path: Path) -> None:
    """SIGKILL at a moment nobody chose; the run is taken up by another process."""
    config = replace(tiny_config, epochs=12, checkpoint_every_steps=1)
    whole = train(config, tmp_path / "whole")
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(config.as_dict()))
    killed = tmp_path / "killed"
    words = [sys.executable, "-m", "metadistiller", "train", "--config", str(settings), "--out", str(killed), "--quiet"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(list_checkpoints(killed / "checkpoints")) == 0:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists(), "the run was over before the signal"
    assemble.resume(killed, quiet=True)
    assert digest(killed) == digest(whole)


def test_resume_falls_back_over_a_damaged_checkpoint_and_says_so(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_config, tmp_path / "whole")
    interrupt_after(monkeypatch, 10)
    broken = tmp_path / "broken"
    with pytest.raises(Interrupted):
        train(tiny_config, broken)
    monkeypatch.undo()
    newest = list_checkpoints(broken / "checkpoints")[-1]
    (newest / "method.safetensors").write_bytes(b"")
    assemble.resume(broken, quiet=True)
    assert f"checkpoint refused: {newest / 'method.safetensors'}" in (broken / "log.txt").read_text()
    assert digest(broken) == digest(whole)


def test_a_run_killed_before_its_result_gets_it_and_before_its_report_gets_that(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(train(replace(tiny_config, epochs=2), tmp_path / "run"))
    whole = digest(folder.path)
    folder.result.unlink()
    assemble.resume(folder.path, quiet=True)
    assert digest(folder.path) == whole
    written = []
    monkeypatch.setattr(assemble.report, "write", written.append)
    assemble.resume(folder.path, quiet=True)
    assert written == [folder.path]


@pytest.mark.parametrize(("key", "value"), [("torch", "2.9.0"), ("threads", 64), ("ranks", 8), (None, None)])
def test_a_resumed_run_announces_what_its_bits_depend_on_and_has_changed(
    tiny_config: Config, tmp_path: Path, key: str | None, value: object
) -> None:
    folder = RunFolder(tmp_path / "run")
    asked: list[int] = []
    with pytest.raises(Paused):
        assemble.train(tiny_config, folder.path, quiet=True, stop=lambda: len(asked) > 2 or bool(asked.append(1)))
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    if key is not None:
        assert key in lines[0]["environment"]
        lines[0]["environment"][key] = value
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assemble.resume(folder.path, quiet=True)
    told = [line for line in folder.log.read_text().splitlines() if "other bits" in line]
    assert len(told) == (key is not None)
    assert all(f"{key} was {value!r}" in line for line in told)


def test_nobody_who_watches_can_change_a_bit(tiny_config: Config, tmp_path: Path) -> None:
    class Busybody:
        """Draws from every global generator whenever it is told something."""

        def __getattr__(self, name: str) -> Any:
            return lambda *args: torch.rand(3)

    quiet = train(tiny_config, tmp_path / "quiet")
    job = assemble.assemble(tiny_config, building.load_data(tiny_config.data))
    folder = RunFolder.create(tmp_path / "watched", job.config.as_dict())
    engine.train(job, folder, watcher=Busybody(), command="")
    assert digest(folder.path) == digest(quiet)


def test_how_often_a_run_is_evaluated_changes_nothing_of_the_network(tiny_config: Config, tmp_path: Path) -> None:
    often = train(tiny_config, tmp_path / "often")
    seldom = train(replace(tiny_config, evaluate_every=3, eval_batch_size=100), tmp_path / "seldom")
    assert (often / "model.safetensors").read_bytes() == (seldom / "model.safetensors").read_bytes()
    rows = RunFolder(seldom).read_rows()
    assert [bool(row["final"]) for row in rows] == [False, False, True]
