"""The record of a run folder: it holds what the folder holds, and half a run has none."""

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import records
from metadistiller.assemble import assemble
from metadistiller.building import load_data, written_out
from metadistiller.config import Choice, Config
from metadistiller.engine import machine
from metadistiller.engine.train import train
from metadistiller.engine.watch import Lines
from metadistiller.errors import CheckpointError
from metadistiller.ledger import Hardware, Record, TeacherRun, append, read, record_of
from metadistiller.ledger._run import NOT_OVERRIDES
from metadistiller.records import RunFolder, source_commit, write_json

from .made import ENVIRONMENT, IMAGES, TAUGHT, finished

A, B = "a" * 40, "b" * 40 + "-dirty"


def test_a_record_holds_what_the_folder_holds(tmp_path: Path, kd: Config) -> None:
    config = replace(kd, epochs=3, seed=2)
    found = record_of(finished(tmp_path / "run", config, teacher=TAUGHT), "cifar100_resnet18_kd", kd)
    assert found == Record(
        recipe="cifar100_resnet18_kd",
        network="resnet18",
        method="kd",
        data="cifar100",
        seed=2,
        exits=(50.0,),
        final=60.5,
        ensemble=61.0,
        epochs=3,
        paper_epochs=200,
        teacher=TeacherRun(network="resnet152", epochs=3, seconds=70.5, final=30.25, device="cuda:0 (H)"),
        overrides={},
        command="metadistiller train r --data.root FOLDER --out FOLDER",
        commit="c" * 40,
        package="0.1.0",
        hardware=Hardware(device="cpu (x86_64)", torch="2.12.0", threads=2, precision="float32"),
        seconds=99.5,
        peak_memory_mb=512.0,
        date="2026-11-22T14:03:05Z",
        images=IMAGES,
        settings=trained(kd.as_dict()),
    )


def trained(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run on public data those that do not say where, how, how long and with which seed."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            kept[key] = {inner: item for inner, item in value.items() if f"{key}.{inner}" not in NOT_OVERRIDES}
        elif key not in NOT_OVERRIDES:
            kept[key] = value
    del kept["data"]["root"]
    return kept


def test_a_run_from_before_the_record_of_its_images_has_none(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd, teacher=TAUGHT)
    older = [{key: value for key, value in event.items() if key != "images"} for event in run.read_events()]
    run.events.write_text("".join(f"{json.dumps(event)}\n" for event in older))
    assert record_of(run, "r", kd).images is None


def test_a_teacher_of_an_older_run_has_no_device(tmp_path: Path, kd: Config) -> None:
    older = {key: value for key, value in TAUGHT.items() if key != "device"}
    found = record_of(finished(tmp_path / "run", kd, teacher=older), "r", kd)
    assert found.teacher == TeacherRun(network="resnet152", epochs=3, seconds=70.5, final=30.25, device=None)


def test_a_run_of_the_program_can_be_entered(
    path: Path, tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "source_commit", lambda: A)
    config = written_out(tiny_config)
    short = replace(config, method=Choice(name="metadistiller", options={"meta_every_epochs": 1}), epochs=1)
    job = assemble(short, load_data(short.data))
    folder = RunFolder.create(tmp_path / "run", job.config.as_dict())
    result = train(job, folder, watcher=Lines(io.StringIO()), command="metadistiller train")
    record = record_of(folder, "tiny", config)
    assert append(path, record)
    assert read(path) == [record]
    assert record.overrides == {"method.generator_lr": 0.001, "method.meta_every_epochs": 1}
    assert (record.final, list(record.exits), record.teacher) == (result["final"], result["exits"], None)
    assert (record.epochs, record.paper_epochs, record.hardware.threads) == (1, 3, 1)
    assert record.commit == A


# A run that is not whole


def test_a_run_that_is_not_finished_has_no_record(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    run.result.unlink()
    with pytest.raises(CheckpointError, match="is not finished; finish it with 'metadistiller resume"):
        record_of(run, "r", kd)


def test_a_run_without_its_rows_has_no_record(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    run.results.unlink()
    with pytest.raises(CheckpointError, match=r"ValueError: results\.csv has no rows"):
        record_of(run, "r", kd)


@pytest.mark.parametrize("key", ["method", "final", "exits", "seconds", "seed"])
def test_half_a_result_has_no_record(tmp_path: Path, kd: Config, key: str) -> None:
    run = finished(tmp_path / "run", kd)
    values = json.loads(run.result.read_text())
    del values[key]
    write_json(run.result, values)
    with pytest.raises(CheckpointError, match=rf"does not hold what a finished run writes \(KeyError: '{key}'\)"):
        record_of(run, "r", kd)


def test_a_run_without_its_events_has_no_record(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    run.events.unlink()
    with pytest.raises(CheckpointError, match="does not hold what a finished run writes"):
        record_of(run, "r", kd)


# The commit of the source


@pytest.mark.parametrize(
    ("sittings", "commit"),
    [
        ([A], A),
        ([A, A, A], A),
        ([A, B], f"{A}, {B}"),
        ([B, A, B], f"{B}, {A}"),
        ([None, None], None),
        ([None, A], f"unknown, {A}"),
    ],
)
def test_the_commit_is_that_of_the_code_that_trained(
    path: Path,
    tmp_path: Path,
    kd: Config,
    monkeypatch: pytest.MonkeyPatch,
    sittings: list[str | None],
    commit: str | None,
) -> None:
    """And not that of the process that enters the run."""
    monkeypatch.setattr(records, "source_commit", lambda: "of whoever enters")
    run = finished(tmp_path / "run", kd)
    run.events.unlink()
    for found in sittings:
        run.append_event("resume", environment=ENVIRONMENT | {"commit": found}, command="metadistiller train")
    record = record_of(run, "r", kd)
    assert record.commit == commit
    assert append(path, record)
    assert read(path) == [record]


def test_a_run_from_before_the_commit_was_written_has_none(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    run.events.unlink()
    older = {key: value for key, value in ENVIRONMENT.items() if key != "commit"}
    run.append_event("start", environment=older, command="metadistiller train")
    assert record_of(run, "r", kd).commit is None


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    source = tmp_path / "package" / "records.py"
    source.parent.mkdir(parents=True)
    source.touch()
    monkeypatch.setattr(records, "__file__", str(source))
    assert source_commit() is None, "no checkout"

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    assert source_commit() is None, "not of this checkout"
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert source_commit() == commit
    (tmp_path / "elsewhere.txt").touch()
    assert source_commit() == commit, "only the package counts"
    (tmp_path / "package" / "new.py").touch()
    assert source_commit() == f"{commit}-dirty"
