"""What a run trains, records and tells, and how it ends where it cannot go on."""

import json
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
from metadistiller.errors import CheckpointError, ConfigError, TrainingError
from metadistiller.records import RunFolder
from small_runs import SIXTEEN_WIDE, Interrupted, interrupt_after, train


class Silent:
    """A watcher that does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


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


def test_two_processes_cannot_train_in_one_folder(tiny_config: Config, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", building.written_out(tiny_config).as_dict())
    with folder.locked(), pytest.raises(CheckpointError, match="is being trained by another process"):
        assemble.resume(folder.path, quiet=True)
    assemble.resume(folder.path, quiet=True)
    assert folder.finished


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
    config = replace(tiny_config, model=SIXTEEN_WIDE, memory_format=layout)  # type: ignore[arg-type]
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
