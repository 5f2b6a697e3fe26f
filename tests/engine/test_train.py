"""Same seed, same bits: whatever interrupts the run, watches it or looks into it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from metadistiller import assemble, building, export
from metadistiller.config import Choice, Config, Optim
from metadistiller.engine import train as engine
from metadistiller.engine.checkpoint import list_checkpoints, load_checkpoint
from metadistiller.engine.step import Stepper
from metadistiller.errors import CheckpointError, ConfigError, Paused, TrainingError
from metadistiller.records import RunFolder

METHODS = ("plain", "dsn", "self_distillation", "metadistiller", "residual_metadistiller")
WARMED = Choice(name="metadistiller", options={"meta_every_epochs": 1, "generator_warmup_epochs": 1})
# The narrowest that no processor refuses to train in channels_last (damages_memory).
EIGHT_WIDE = Choice(name="resnet10", options={"width": 8})
OWN = Choice(name="metadistiller", options={"meta_every_epochs": 2, "generator_lr": 0.01, "lookahead": "own"})


def digest(folder: Path) -> str:
    """SHA-256 over everything that must not depend on how the run went: weights, optimizers, tables, results."""
    checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    found = hashlib.sha256()
    for tensors in (checkpoint.method, checkpoint.optimizers):
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].numpy().tobytes())
    for name in (
        "results.csv",
        "evaluation.json",
        "soft_targets.json",
        "mistakes.json",
        "outcomes.safetensors",
        "model.safetensors",
    ):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def train(config: Config, out: Path) -> Path:
    return assemble.train(config, out, quiet=True).folder


class Silent:
    """A watcher that does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Interrupted(Exception):
    """Stands for a kill: raised from inside the loop."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Let the loop take so many gradients of any player, then break off."""
    whole = Stepper._differentiate
    left = [updates]

    def update(self: Any, *args: Any) -> None:
        if left[0] == 0:
            raise Interrupted
        left[0] -= 1
        whole(self, *args)

    monkeypatch.setattr(Stepper, "_differentiate", update)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny_config: Config, tmp_path: Path) -> None:
    one, two = train(tiny_config, tmp_path / "a"), train(tiny_config, tmp_path / "b")
    assert digest(one) == digest(two)
    other = train(replace(tiny_config, seed=1), tmp_path / "c")
    assert digest(one) != digest(other)


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
    config = replace(tiny_config, model=EIGHT_WIDE, precision="bfloat16", memory_format="channels_last")
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


def test_methods_of_a_seed_start_from_the_same_network(tiny_config: Config) -> None:
    dataset = building.load_data(tiny_config.data)
    states = [
        building.build_method(replace(tiny_config, method=Choice(name=method)), dataset).deployable().state_dict()
        for method in METHODS
    ]
    for state in states[1:]:
        assert all(torch.equal(states[0][name], value) for name, value in state.items())


def test_alpha_one_trains_the_network_that_deep_supervision_trains(tiny_config: Config, tmp_path: Path) -> None:
    """Eq. 4 with alpha = 1 has no soft term, so the whole run must be dsn's, bit for bit."""
    dsn = train(replace(tiny_config, method=Choice(name="dsn")), tmp_path / "dsn")
    for name in ("self_distillation", "metadistiller"):
        run = train(replace(tiny_config, method=Choice(name=name, options={"alpha": 1.0})), tmp_path / name)
        assert (run / "model.safetensors").read_bytes() == (dsn / "model.safetensors").read_bytes()


def test_meta_epochs_are_every_m_th_from_zero(tiny_config: Config, tmp_path: Path) -> None:
    events = RunFolder(train(tiny_config, tmp_path / "run")).read_events()
    who = {event["epoch"]: event["objectives"] for event in events if event["event"] == "epoch"}
    assert who == {0: ["student", "generator"], 1: ["student"], 2: ["student", "generator"]}


def test_the_table_records_what_the_targets_are_like(tiny_config: Config, tmp_path: Path) -> None:
    rows = RunFolder(train(tiny_config, tmp_path / "run")).read_rows()
    for k in (1, 2, 3):
        for row in rows:
            assert 0 < float(row[f"target_{k}_entropy"]) < 2.303
            assert 0.1 <= float(row[f"target_{k}_confidence"]) <= 1
    assert rows[1]["heldout_loss"] == ""
    assert float(rows[2]["generator_gradient_norm"]) > 0


def test_result_holds_what_other_programs_read(tiny_config: Config, tmp_path: Path) -> None:
    folder = train(tiny_config, tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    assert {key: result[key] for key in ("method", "network", "data", "epochs", "seed")} == {
        "method": "metadistiller",
        "network": "resnet10",
        "data": "digits",
        "epochs": 3,
        "seed": 0,
    }
    assert len(result["exits"]) == 3
    assert result["seconds"] > 0
    assert result["peak_memory_mb"] > 0
    last = RunFolder(folder).read_rows()[-1]
    assert [result["final"], result["ensemble"]] == [float(last["final"]), float(last["ensemble"])]
    plain = train(replace(tiny_config, method=Choice(name="plain")), tmp_path / "plain")
    result = json.loads((plain / "result.json").read_text())
    assert result["exits"] == []
    assert result["final"] == result["ensemble"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Two good epochs, then a warm-up that leads into the abyss."""
    optim = Optim(lr=1e12, momentum=0.0, schedule="constant", warmup_epochs=1e12)
    config = replace(tiny_config, method=Choice(name="plain"), epochs=2, optim=optim)
    job = assemble.assemble(config, building.load_data(config.data))
    folder = RunFolder.create(tmp_path / "run", job.config.as_dict())
    whole = job.batches.batch

    def poisoned(stream: Any, *, epoch: int, step: int) -> Any:
        images, labels = whole(stream, epoch=epoch, step=step)
        return (images * float("nan") if (epoch, step) == (1, 2) else images), labels

    job.batches.batch = poisoned  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, by step 3 of 3.*--optim\.lr"):
        engine.train(job, folder, watcher=Silent(), command="")
    (kept,) = list_checkpoints(folder.checkpoints)
    assert kept.name == "e0001-s000000"
    assert all(value.isfinite().all() for value in load_checkpoint(kept).method.values())


def test_a_learning_rate_that_diverges_ends_with_the_advice(tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, method=Choice(name="plain"), epochs=6, optim=Optim(lr=1e18, momentum=0.0))
    with pytest.raises(TrainingError, match=r"(nan|inf).*--optim\.lr"):
        train(config, tmp_path / "run")


def test_a_save_that_fails_is_reported_and_training_goes_on(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine.save_checkpoint
    calls = []

    def second_fails(*args: Any, **options: Any) -> Path:
        calls.append(1)
        if len(calls) == 2:
            raise CheckpointError("disk full")
        return whole(*args, **options)

    monkeypatch.setattr(engine, "save_checkpoint", second_fails)
    folder = train(tiny_config, tmp_path / "run")
    assert [e["reason"] for e in RunFolder(folder).read_events() if e["event"] == "save_failed"] == ["disk full"]
    assert "disk full" in (folder / "log.txt").read_text()
    assert (folder / "result.json").exists()


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


def test_two_processes_cannot_train_in_one_folder(tiny_config: Config, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", building.written_out(tiny_config).as_dict())
    with folder.locked(), pytest.raises(CheckpointError, match="is being trained by another process"):
        assemble.resume(folder.path, quiet=True)
    assemble.resume(folder.path, quiet=True)
    assert folder.finished


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


def test_a_line_of_events_cut_short_by_a_kill_stays_alone(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.append_event("start", epoch=0)
    with folder.events.open("a") as file:
        file.write('{"event": "epo')
    folder.append_event("resume", epoch=1)
    assert [event["event"] for event in folder.read_events()] == ["start", "resume"]


def test_settings_that_cannot_be_written_leave_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="represent"):
        RunFolder.create(tmp_path / "run", {"data": object()})
    assert not (tmp_path / "run").exists()


def test_an_evaluation_of_a_finished_run_is_of_its_last_epoch_or_refused(tiny_config: Config, tmp_path: Path) -> None:
    folder = train(tiny_config, tmp_path / "run")
    restored, found = assemble.evaluate_run(folder)
    assert restored.epochs_done == 3
    assert found.final == json.loads((folder / "result.json").read_text())["final"]
    newest = list_checkpoints(folder / "checkpoints")[-1]
    (newest / "method.safetensors").write_bytes(b"")
    for look in (assemble.evaluate_run, export):
        with pytest.raises(CheckpointError, match=r"has 2 of 3 epochs .*method\.safetensors.*model\.safetensors"):
            look(folder)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_batches_come_in_the_memory_format_that_was_asked_for(layout: str, tiny_config: Config) -> None:
    config = replace(tiny_config, model=EIGHT_WIDE, memory_format=layout)  # type: ignore[arg-type]
    job = assemble.assemble(config, building.load_data(config.data))
    wanted = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for objective in job.method.objectives(0):
        batch = job.batches.batch(objective.stream, epoch=0, step=0)
        for images, _ in [batch] if isinstance(batch[0], torch.Tensor) else batch:
            for name, kind in wanted.items():
                assert images.is_contiguous(memory_format=kind) == (name == layout)


def test_a_folder_that_is_there_and_a_finished_run_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, epochs=1)
    folder = train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run exists.*resume.*--out"):
        train(config, folder)
    (folder / "report.html").touch()
    with pytest.raises(CheckpointError, match="is finished"):
        assemble.resume(folder)


def test_settings_edited_behind_a_run_s_back_are_refused(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 8)
    with pytest.raises(Interrupted):
        train(tiny_config, tmp_path / "run")
    monkeypatch.undo()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("width: 4", "width: 6"))
    with pytest.raises(CheckpointError, match=r"does not fit the network of config\.yaml"):
        assemble.resume(tmp_path / "run")
    config.write_text(config.read_text().replace("name: metadistiller", "name: dsn"))
    text = yaml.safe_load(config.read_text())
    text["method"] = {"name": "dsn"}
    config.write_text(yaml.safe_dump(text))
    with pytest.raises(CheckpointError, match="method 'metadistiller', this run has 'dsn'"):
        assemble.resume(tmp_path / "run")


def test_a_batch_larger_than_the_data_is_refused_before_a_folder_is_made(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 64.*40 images"):
        train(replace(tiny_config, batch_size=64), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_watcher_hears_of_every_epoch(tiny_config: Config, tmp_path: Path) -> None:
    heard: list[Mapping[str, Any]] = []

    class Listener(Silent):
        def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
            assert images_per_second > 0
            heard.append(row)

    job = assemble.assemble(tiny_config, building.load_data(tiny_config.data))
    engine.train(job, RunFolder.create(tmp_path / "run", job.config.as_dict()), watcher=Listener(), command="")
    assert [row["epoch"] for row in heard] == [0, 1, 2]


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
