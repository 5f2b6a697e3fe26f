"""The ledger: what is entered is read, once, by several at once, and never at the cost of what was there."""

import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from metadistiller import ledger, recipe, records
from metadistiller.assemble import assemble
from metadistiller.building import load_data, with_members, written_out
from metadistiller.config import Choice, Config, Optim, Teacher
from metadistiller.engine import machine
from metadistiller.engine.train import train
from metadistiller.engine.watch import Lines
from metadistiller.entering import enter
from metadistiller.errors import CheckpointError, LedgerError
from metadistiller.ledger import (
    Hardware,
    Record,
    TargetsAt,
    TeacherRun,
    _file,
    append,
    identity,
    locked,
    read,
    record_of,
)
from metadistiller.ledger._record import MOST_EPOCHS
from metadistiller.ledger._run import BEFORE, NOT_OVERRIDES, SAME_EVERYWHERE, portable
from metadistiller.ledger._targets import targets_of
from metadistiller.lookup import FAMILIES, table
from metadistiller.records import RunFolder, source_commit, write_json, write_text

RECORD = Record(
    recipe="cifar100_resnet18_kd",
    network="resnet18",
    method="kd",
    data="cifar100",
    seed=0,
    exits=(61.5, 70.25),
    final=77.31,
    ensemble=77.31,
    epochs=200,
    paper_epochs=200,
    teacher=TeacherRun(network="resnet152", epochs=200, seconds=1e5, final=79.5, device="cpu (x86_64)"),
    overrides={"method.alpha": 0.7, "optim.milestones": [0.5, 0.75]},
    command="metadistiller train cifar100_resnet18_kd --data.root FOLDER",
    commit="0" * 40,
    package="0.1.0",
    hardware=Hardware(device="cpu (x86_64)", torch="2.12.0", threads=2, precision="float32"),
    seconds=12345.678,
    peak_memory_mb=1100.5,
    date="2026-11-22T14:03:05Z",
)
FIRST = TargetsAt(
    epoch=0,
    generator_steps=391,
    accuracy=(1.0, 100.0),
    entropy=(4.5, 0.25),
    confidence=(0.01, 1.0),
    heldout_loss=None,
    target_gain=None,
    label_gain=None,
    target_alignment=None,
    label_alignment=None,
)
LAST = replace(
    FIRST,
    epoch=199,
    generator_steps=None,
    heldout_loss=0.5,
    target_gain=(-0.002, 1.5),
    label_gain=(0.03, 0.0),
    target_alignment=(-1, 0.25),
    label_alignment=(0.5, 1.0),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence" / "ledger.json"


# What is entered is read


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, teacher=None, commit=None, exits=(), overrides={}),
        replace(RECORD, targets=(FIRST,)),
        replace(RECORD, targets=(FIRST, LAST)),
    ],
)
def test_what_is_entered_is_read(path: Path, record: Record) -> None:
    assert read(path) == []
    assert append(path, record) is True
    assert read(path) == [record]


def test_records_stay_in_the_order_of_entry(path: Path) -> None:
    records = [replace(RECORD, seed=seed) for seed in (3, 0, 2)]
    assert [append(path, record) for record in records] == [True] * 3
    assert read(path) == records
    assert json.loads(path.read_text())["format"] == 2


def test_a_ledger_of_format_1_is_read_without_targets_and_goes_on_in_format_2(path: Path) -> None:
    append(path, RECORD)
    whole = json.loads(path.read_text())
    del whole["runs"][0]["targets"]
    write_json(path, {**whole, "format": 1})
    assert read(path) == [RECORD]
    assert append(path, replace(RECORD, seed=1, targets=(FIRST, LAST)))
    assert json.loads(path.read_text())["format"] == 2
    assert read(path) == [RECORD, replace(RECORD, seed=1, targets=(FIRST, LAST))]
    # A file of format 1 that has what came later is none.
    write_json(path, {**json.loads(path.read_text()), "format": 1})
    with pytest.raises(LedgerError, match="run 0 has unknown keys: targets"):
        read(path)


def test_the_same_run_again_changes_nothing(path: Path) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    again = replace(RECORD, seconds=1.0, date="2027-01-01T00:00:00Z", commit=None)
    assert append(path, again) is False
    assert path.read_bytes() == before


def test_the_same_folder_is_one_run_to_a_version_with_more_settings(path: Path) -> None:
    """Which it has as null, and a copy of it another date; a run that took another time is another all the same."""
    append(path, RECORD)
    before = path.read_bytes()
    newer = replace(RECORD, overrides={**RECORD.overrides, "method.new": None, "new": None}, targets=(FIRST, LAST))
    assert newer.id != RECORD.id
    for same in (newer, replace(newer, date="2027-01-01T00:00:00Z")):
        assert append(path, same) is False
        assert path.read_bytes() == before
    others = [{"peak_memory_mb": 1.0}, {"seconds": 1.0}, {"overrides": {}}, {"seed": 1}, {"commit": None}]
    for other in others:
        path.write_bytes(before)
        assert append(path, replace(newer, **other))


@pytest.mark.parametrize("change", [{"final": 77.32}, {"ensemble": 77.0}, {"exits": (61.5, 70.0)}, {"exits": ()}])
def test_the_same_run_with_another_outcome_is_refused(path: Path, change: dict[str, Any]) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    message = r"already has cifar100_resnet18_kd .* on the same hardware, .* 2026-11-22T14:03:05Z .* 77\.31.*"
    with pytest.raises(LedgerError, match=f"{message}; or keep this one in a ledger of its own, --evidence OTHER"):
        append(path, replace(RECORD, date="2027-01-01T00:00:00Z", **change))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "elsewhere", [{"device": "cuda (NVIDIA H200)"}, {"torch": "2.13.0"}, {"threads": 64}, {"precision": "bfloat16"}]
)
def test_the_same_run_on_other_hardware_is_another_run(path: Path, elsewhere: dict[str, Any]) -> None:
    """Its bits are others; who runs the command of somebody's ledger again must be able to enter what came out."""
    other = replace(RECORD, hardware=replace(RECORD.hardware, **elsewhere), final=77.32)
    assert [append(path, RECORD), append(path, other)] == [True, True]
    assert read(path) == [RECORD, other]
    with pytest.raises(LedgerError, match="on the same hardware"):
        append(path, replace(other, final=77.33))


# Which run it is


def test_the_id_is_the_same_for_ever() -> None:
    """Of the SHA-256 of the list that docs/run-folder.md states, and of the like for the record above."""
    listed = (
        '["cifar100_resnet18_plain",0,200,{},null,'
        '{"device":"cpu (x86_64)","precision":"float32","threads":2,"torch":"2.12.0"}]'
    )
    found = identity("cifar100_resnet18_plain", seed=0, epochs=200, overrides={}, hardware=RECORD.hardware)
    assert found == hashlib.sha256(listed.encode()).hexdigest()[:16] == "af30489c4ac76180"
    assert RECORD.id == "d159152328226c81"


def test_the_id_says_what_was_run_and_not_what_came_out() -> None:
    differs: dict[str, Any] = {
        "recipe": "cifar100_resnet18_fitnet",
        "seed": 1,
        "epochs": 3,
        "overrides": {},
        "teacher": replace(RECORD.teacher, epochs=3) if RECORD.teacher else None,
        "hardware": replace(RECORD.hardware, device="cuda"),
    }
    ids = {replace(RECORD, **{key: value}).id for key, value in differs.items()}
    assert len(ids | {RECORD.id}) == 7
    same: dict[str, Any] = {
        "final": 1.0,
        "seconds": 1.0,
        "command": "",
        "commit": None,
        "package": "9",
        "date": "2030-01-01T00:00:00Z",
        "overrides": dict(reversed(list(RECORD.overrides.items()))),
    }
    assert {replace(RECORD, **{key: value}).id for key, value in same.items()} == {RECORD.id}


# Several at once

APPEND_TWENTY = """
import sys, time
from dataclasses import replace
from pathlib import Path
from metadistiller.ledger import append, read
path, first = Path(sys.argv[1]), int(sys.argv[2])
(record,) = read(path)
path.with_name(f"ready{first}").touch()
while not path.with_name("go").exists():
    time.sleep(0.001)
for seed in range(first, first + 20):
    append(path, replace(record, seed=seed))
"""


def test_two_processes_enter_twenty_runs_each_at_once(path: Path) -> None:
    append(path, replace(RECORD, seed=999))
    words = [sys.executable, "-c", APPEND_TWENTY, str(path)]
    processes = [subprocess.Popen([*words, str(first)], stderr=subprocess.PIPE) for first in (0, 100)]
    while not all(path.with_name(f"ready{first}").exists() for first in (0, 100)):
        assert all(process.poll() is None for process in processes), "one did not even begin"
        time.sleep(0.01)
    path.with_name("go").touch()
    assert [process.communicate()[1] for process in processes] == [b"", b""]
    assert sorted(record.seed for record in read(path)) == [*range(20), *range(100, 120), 999]


def test_a_ledger_that_somebody_holds_is_waited_for_and_then_said_to_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    monkeypatch.setattr(_file, "WAIT_SECONDS", 0.1)
    with path.with_name(".ledger.json.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(LedgerError, match=r"held by another process for 0\.1 s"):
            append(path, replace(RECORD, seed=1))
        assert time.monotonic() - began >= 0.1
    assert path.read_bytes() == before
    assert append(path, replace(RECORD, seed=1)) is True


def test_the_ledger_can_be_held_while_something_else_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, RECORD)
    monkeypatch.setattr(_file, "WAIT_SECONDS", 0.1)
    with locked(str(path)):
        assert read(path) == [RECORD], "reading takes no lock"
        # Not reentrant, and said to be held instead of waiting for ever.
        for ask in (lambda: append(path, replace(RECORD, seed=1)), lambda: locked(path).__enter__()):
            with pytest.raises(LedgerError, match=r"held by another process for 0\.1 s"):
                ask()
    assert append(path, replace(RECORD, seed=1)) is True


# What cannot be read


def runs(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The ledger with its one record changed in place."""

    def changed(whole: dict[str, Any]) -> Any:
        change(whole["runs"][0])
        return whole

    return changed


def of(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return runs(lambda run: run.__setitem__(key, value))


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a newer format": (lambda whole: {**whole, "format": 3}, "has format 3, this version reads 1 and 2"),
    "no format": (lambda whole: {"runs": whole["runs"]}, "no ledger: it has no format"),
    "a list": (lambda whole: whole["runs"], "no ledger"),
    "no runs": (lambda whole: {"format": 2}, "not format and a list of runs"),
    "runs by name": (lambda whole: {"format": 2, "runs": {}}, "not format and a list of runs"),
    "more beside the runs": (lambda whole: {**whole, "notes": ""}, r"holds \['format', 'notes', 'runs'\]"),
    "a number as a run": (lambda whole: {"format": 2, "runs": [3]}, "run 0 is 3, not a record"),
    "an unknown field": (of("top5", 90.0), "run 0 has unknown keys: top5"),
    "a missing field": (runs(lambda run: run.pop("seconds")), "run 0 has missing keys: seconds"),
    "a field of the wrong type": (of("epochs", "200"), "run 0: epochs is '200'"),
    "no epoch at all": (of("epochs", 0), "run 0: epochs is 0"),
    "a truth for a number": (of("seed", True), "run 0: seed is True"),
    "more than everything": (of("final", 100.5), r"run 0: final is 100\.5"),
    "an exit that is none": (of("exits", [50.0, None]), "run 0: exits is"),
    "a negative time": (of("seconds", -1), "run 0: seconds is -1"),
    "another date": (of("date", "22 November"), "run 0: date is '22 November'"),
    "half a machine": (runs(lambda run: run["hardware"].pop("torch")), "run 0, hardware has missing keys: torch"),
    "an unknown of the teacher": (of("teacher", {"name": "x"}), "run 0, teacher has unknown keys: name"),
    "no epoch of targets": (of("targets", []), r"run 0: targets is \[\]"),
    "too many epochs of targets": (of("targets", [asdict(FIRST)] * (MOST_EPOCHS + 1)), "run 0: targets is"),
    "half an epoch of targets": (of("targets", [{"epoch": 0}]), "run 0, targets 0 has missing keys: accuracy"),
    **{
        f"targets with {key} {value!r}": (of("targets", [{**asdict(FIRST), key: value}]), f"targets 0: {key} is")
        for key, value in (
            ("epoch", 200),
            ("epoch", -1),
            ("generator_steps", 1.5),
            ("accuracy", [1.0, 100.1]),
            ("accuracy", []),
            ("accuracy", None),
            ("entropy", [-0.1, 1.0]),
            ("entropy", [1.0, math.inf]),
            ("confidence", [0.5, 1.1]),
            ("heldout_loss", -1.0),
            ("target_gain", [0.0, "much"]),
            ("label_gain", [0.0, math.inf]),
            ("target_alignment", [0.0, -1.1]),
            ("label_alignment", [True, 0.0]),
        )
    },
    "targets of another number of exits": (
        of("targets", [{**asdict(FIRST), "entropy": [1.0]}]),
        "targets 0 are not of 2 exits",
    ),
    "an epoch of targets twice": (of("targets", [asdict(FIRST)] * 2), "targets 1: epoch is 0"),
    "updates taken back": (
        of("targets", [asdict(FIRST), {**asdict(LAST), "generator_steps": 390}]),
        "generator_steps become fewer",
    ),
    "another's id": (of("id", "0" * 16), "run 0 has the id 0000000000000000, its settings make"),
    "another's settings": (of("seed", 7), "run 0 has the id"),
    "a run twice": (lambda whole: {"format": 2, "runs": whole["runs"] * 2}, "run 1 is there already"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ledger_is_one_clear_error_and_stays_as_it_is(path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    append(path, RECORD)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    before = path.read_bytes()
    for ask in (lambda: read(path), lambda: append(path, replace(RECORD, seed=1))):
        with pytest.raises(LedgerError, match=message) as caught:
            ask()
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "runs": [', b"\xff\xfe", b"null"])
def test_half_a_file_is_one_clear_error(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for ask in (lambda: read(path), lambda: append(path, RECORD)):
        with pytest.raises(LedgerError, match=re.escape(str(path))):
            ask()
        assert path.read_bytes() == content


@pytest.mark.parametrize("change", [{"final": float("nan")}, {"seconds": float("inf")}, {"seed": -1}, {"date": "now"}])
def test_what_could_not_be_read_is_not_written(path: Path, change: dict[str, Any]) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="the record of cifar100_resnet18_kd"):
        append(path, replace(RECORD, **{"seed": 1, **change}))
    assert path.read_bytes() == before


def test_every_field_is_checked_when_it_is_read(path: Path) -> None:
    for key in ("id", *(field.name for field in fields(Record))):
        path.unlink(missing_ok=True)
        append(path, RECORD)
        whole = json.loads(path.read_text())
        whole["runs"][0][key] = [[]]
        write_json(path, whole)
        with pytest.raises(LedgerError, match=f"run 0: {key} is"):
            read(path)


# From a run folder

ENVIRONMENT = {
    "package": "0.1.0",
    "commit": "c" * 40,
    "torch": "2.12.0",
    "python": "3.11.7",
    "system": "Linux",
    "device": "cpu (x86_64)",
    "threads": 2,
    "precision": "float32",
    "memory_format": "contiguous",
}
TAUGHT = {"network": "resnet152", "epochs": 3, "seconds": 70.5, "final": 30.25, "sha256": "00", "device": "cuda:0 (H)"}


def finished(folder: Path, config: Config, *, teacher: dict[str, Any] | None = None) -> RunFolder:
    """A run folder with what a record is made of."""
    run = RunFolder.create(folder, config.as_dict())
    if teacher is not None:
        run.append_event("teacher", **teacher)
    command = "metadistiller train r --data.root /home/somebody/data --out /tmp/x"
    run.append_event("start", environment=ENVIRONMENT | {"threads": 64}, command=command)
    run.append_event("resume", environment=ENVIRONMENT, command="metadistiller resume /tmp/x")
    names = {"method": config.method.name, "network": config.model.name, "data": config.data.name}
    scores = {"exits": [50.0], "final": 60.5, "ensemble": 61.0, "seconds": 99.5, "peak_memory_mb": 512.0}
    write_json(run.result, {**names, **scores, "epochs": config.epochs, "seed": config.seed})
    run.write_rows([{"epoch": epoch, "loss": 1.0} for epoch in range(config.epochs)])
    os.utime(run.result, (1_795_356_185, 1_795_356_185))
    return run


@pytest.fixture
def kd() -> Config:
    return written_out(recipe("cifar100_resnet18_kd"))


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
    )


def test_a_teacher_of_an_older_run_has_no_device(tmp_path: Path, kd: Config) -> None:
    older = {key: value for key, value in TAUGHT.items() if key != "device"}
    found = record_of(finished(tmp_path / "run", kd, teacher=older), "r", kd)
    assert found.teacher == TeacherRun(network="resnet152", epochs=3, seconds=70.5, final=30.25, device=None)


A, B = "a" * 40, "b" * 40 + "-dirty"


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


# Soft targets over training


KINDS = ("accuracy", "entropy", "confidence")


def rows_of(epochs: int, learns: Callable[[int], bool], *, aligned: bool) -> list[dict[str, str]]:
    """results.csv of a run with two exits: every value says which epoch, exit and column it is of."""
    rows = []
    for epoch in range(epochs):
        row = {"epoch": str(epoch)}
        row |= {f"target_{k}_{kind}": str(epoch + k / 10 + KINDS.index(kind) / 100) for k in (1, 2) for kind in KINDS}
        late = {"heldout_loss": str(epoch + 0.5), "generator_gradient_norm": "0.0"}
        if aligned:
            late |= {f"target_{k}_alignment": str(epoch + k / 10) for k in (1, 2)}
            late |= {f"label_{k}_alignment": str(-epoch - k / 10) for k in (1, 2)}
            late |= {f"target_{k}_gain": str(epoch + k / 20) for k in (1, 2)}
            late |= {f"label_{k}_gain": str(-epoch - k / 20) for k in (1, 2)}
        rows.append(row | {key: value if learns(epoch) else "" for key, value in late.items()})
    return rows


def epoch_event(epoch: int, images: int) -> dict[str, Any]:
    seconds = 0.1 + epoch / 3
    return {"event": "epoch", "epoch": epoch, "epoch_seconds": seconds, "images_per_second": images / seconds}


MADE = {"batch_size": 64, "method": {"meta_every_steps": 3}}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("epochs", "meta"), [(1, 1), (5, 2), (12, 5), (13, 1), (200, 5), (201, 7)])
def test_the_curve_of_a_run_is_its_results(epochs: int, meta: int, aligned: bool) -> None:
    rows = rows_of(epochs, lambda epoch: epoch % meta == 0, aligned=aligned)
    # 450 images are eight batches of 64, the last of two; the generator learns in the first, fourth and seventh.
    curve = targets_of(rows, [epoch_event(epoch, 450) for epoch in range(epochs)], MADE)
    assert curve is not None
    assert len(curve) == min(epochs, 12)
    assert (curve[0].epoch, curve[-1].epoch) == (0, epochs - 1)
    gaps = {after.epoch - before.epoch for before, after in itertools.pairwise(curve)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    for point in curve:
        for kind in KINDS:
            assert getattr(point, kind) == tuple(float(rows[point.epoch][f"target_{k}_{kind}"]) for k in (1, 2))
        learned = point.epoch // meta * meta
        assert point.heldout_loss == learned + 0.5
        assert point.target_alignment == ((learned + 0.1, learned + 0.2) if aligned else None)
        assert point.label_alignment == ((-learned - 0.1, -learned - 0.2) if aligned else None)
        assert point.target_gain == ((learned + 0.05, learned + 0.1) if aligned else None)
        assert point.label_gain == ((-learned - 0.05, -learned - 0.1) if aligned else None)
        assert point.generator_steps == 3 * (point.epoch // meta + 1)


def test_what_no_epoch_has_had_yet_is_nothing() -> None:
    rows = rows_of(3, lambda epoch: epoch == 2, aligned=True)
    curve = targets_of(rows, [epoch_event(0, 64)], MADE)
    assert curve is not None
    assert [(point.heldout_loss, point.target_alignment, point.generator_steps) for point in curve] == [
        (None, None, 0),
        (None, None, 0),
        (2.5, (2.1, 2.2), 1),
    ]


def test_a_method_without_soft_targets_has_no_curve() -> None:
    assert targets_of([{"epoch": "0", "exit_1_hard": "1.0"}], [], MADE) is None


@pytest.mark.parametrize("warmup", [0, 2, 3])
def test_while_labels_teach_first_every_step_is_an_update(warmup: int) -> None:
    made = {"batch_size": 64, "method": {"meta_every_steps": 4, "generator_warmup_epochs": warmup}}
    curve = targets_of(rows_of(3, lambda epoch: True, aligned=False), [epoch_event(0, 450)], made)
    each = [8 if epoch < warmup else 2 for epoch in range(3)]
    assert [point.generator_steps for point in curve or ()] == list(itertools.accumulate(each))


def test_a_ledger_has_a_line_for_each_run(path: Path) -> None:
    append(path, RECORD)
    before = path.read_text().splitlines()
    append(path, replace(RECORD, seed=RECORD.seed + 1))
    after = path.read_text().splitlines()
    # And no other line changes but for the comma that JSON wants.
    assert after == [*before[:-3], f"{before[-3]},", after[-3], *before[-2:]]
    assert [json.loads(line.removesuffix(",")) for line in after[-4:-2]] == json.loads(path.read_text())["runs"]


def test_a_generator_that_never_learns_has_no_updates_whatever_is_known() -> None:
    rows = rows_of(4, lambda epoch: False, aligned=False)
    curve = targets_of(rows, [], {"batch_size": 64, "method": {}})
    assert curve is not None
    assert [point.generator_steps for point in curve] == [0] * 4


def test_steps_are_told_by_epochs_that_were_not_interrupted() -> None:
    """Of one that was resumed, events.jsonl has the images after the resume alone."""
    rows = rows_of(2, lambda epoch: True, aligned=False)
    older = {"batch_size": 64, "method": {}}
    resumed = {"event": "resume", "epoch": 0, "step": 3}

    def counts(*events: dict[str, Any]) -> list[int | None]:
        return [point.generator_steps for point in targets_of(rows, events, older) or ()]

    assert counts(epoch_event(0, 450), epoch_event(1, 450)) == [8, 16]
    assert counts(resumed, epoch_event(0, 258), epoch_event(1, 450)) == [8, 16]
    # Where every epoch was interrupted nobody knows.
    assert counts(resumed, epoch_event(0, 258)) == [None, None]
    # Resumed between two epochs both are whole.
    assert counts(epoch_event(0, 449), {"event": "resume", "epoch": 1, "step": 0}, epoch_event(1, 449)) == [8, 16]


@pytest.mark.parametrize("targets", ["meta", "labels", "frozen", "uniform"])
def test_the_updates_of_a_run_of_the_program_are_those_that_it_took(
    tmp_path: Path, tiny_config: Config, targets: str
) -> None:
    """Adam counts its own."""
    options = {"meta_every_epochs": 2, "meta_every_steps": 2, "targets": targets}
    config = written_out(replace(tiny_config, method=Choice(name="metadistiller", options=options)))
    job = assemble(config, load_data(config.data))
    folder = RunFolder.create(tmp_path / "run", job.config.as_dict())
    train(job, folder, watcher=Lines(io.StringIO()), command="metadistiller train")
    curve = record_of(folder, "tiny", config).targets
    assert curve is not None
    # 40 images are three batches of 16, 16 and 8; the generator learns in the first and the last of epochs 0 and 2.
    counts = [2, 2, 4] if targets in ("meta", "labels") else [0, 0, 0]
    assert [(point.epoch, point.generator_steps) for point in curve] == list(enumerate(counts))
    steps = {
        int(tensor)
        for path in folder.checkpoints.glob("e0003*/optimizers.safetensors")
        for key, tensor in load_file(path).items()
        if key.startswith("generator/") and key.endswith("/step")
    }
    assert steps == ({4} if counts[-1] else set())
    rows = folder.read_rows()
    assert [point.accuracy[0] for point in curve] == [float(row["target_1_accuracy"]) for row in rows]
    assert [point.heldout_loss is None for point in curve] == [targets != "meta"] * 3


OTHER_VALUES: dict[str, Any] = {
    "batch_size": 64,
    "label_smoothing": 0.1,
    "pretrained": True,
    "weights": "begin.safetensors",
    "freeze": ["layer1"],
    "class_weights": "inverse",
    "sampling": "balanced",
    "heldout_share": 0.1,
    "batch_statistics": "synchronised",
    "ensemble": "probabilities",
    "seed": 5,
    "epochs": 3,
    "device": "cuda:1",
    "precision": "bfloat16",
    "memory_format": "channels_last",
    "threads": 3,
    "evaluate_every": 7,
    "eval_batch_size": 9,
    "checkpoint_every_steps": 11,
    "keep_checkpoints": 13,
}


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_settings_that_differ_are_overrides_unless_they_only_say_where_and_how(
    tmp_path: Path, kd: Config, key: str
) -> None:
    run = finished(tmp_path / "run", replace(kd, **{key: OTHER_VALUES[key]}))
    expected = {} if key in NOT_OVERRIDES else {key: OTHER_VALUES[key]}
    assert record_of(run, "r", kd).overrides == expected


def test_every_setting_has_a_case_above() -> None:
    families = {"data", "model", "method", "teacher", "optim", "augment"}
    assert set(OTHER_VALUES) == {field.name for field in fields(Config)} - families


def test_options_that_differ_are_overrides_by_their_dotted_names(tmp_path: Path, kd: Config) -> None:
    assert kd.teacher is not None
    data = {**kd.data.options, "root": "/home/somebody/data", "train_per_class": 50}
    config = replace(
        kd,
        data=Choice(name="cifar100", options=data),
        model=Choice(name="resnet18", options={**kd.model.options, "width": 16}),
        method=Choice(name="kd", options={**kd.method.options, "temperature": 2.0}),
        teacher=Teacher(name="resnet152", options={**kd.teacher.options, "width": 8}, run="/tmp/teacher"),
        optim=replace(kd.optim, milestones=(0.5, 0.75)),
        augment=replace(kd.augment, mixup=0.2),
    )
    found = record_of(finished(tmp_path / "run", config), "r", kd)
    assert found.overrides == {
        "augment.mixup": 0.2,
        "data.train_per_class": 50,
        "method.temperature": 2.0,
        "model.width": 16,
        "optim.milestones": [0.5, 0.75],
        "teacher.width": 8,
    }


NAMES_OF_KD = {"data": "cifar100", "model": "resnet18", "method": "kd", "teacher": "resnet152"}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "method": ({"method": ("dsn", {"exit_weight": 0.5}), "teacher": None}, {"teacher": None}),
    "model": ({"model": ("resnet10", {"width": 16})}, {}),
    "data": ({"data": ("digits", {"train_per_class": 10})}, {}),
    "teacher": ({"teacher": ("resnet10", {"width": 16})}, {}),
}


@pytest.mark.parametrize("family", OTHERS)
def test_another_member_is_an_override_with_what_is_not_its_own_default(
    tmp_path: Path, kd: Config, family: str
) -> None:
    """So that it says the same whatever recipe the command started from."""
    members, also = OTHERS[family]
    names = NAMES_OF_KD | {role: chosen and chosen[0] for role, chosen in members.items()}
    own = written_out(with_members(kd, names))
    run = finished(tmp_path / "plain", own)
    name, options = members[family]
    assert record_of(run, "r", kd, own=own).overrides == {f"{family}.name": name, **also}
    kind = Teacher if family == "teacher" else Choice
    changed = written_out(replace(with_members(kd, names), **{family: kind(name=name, options=options)}))
    expected = {f"{family}.name": name, **{f"{family}.{key}": value for key, value in options.items()}, **also}
    run = finished(tmp_path / "changed", changed)
    assert record_of(run, "r", kd, own=own).overrides == expected
    # A setting that the run is older than.
    values = run.read_config()
    (option,) = options
    del values[family][option]
    write_text(run.config, yaml.safe_dump(values))
    unknown = {} if getattr(own, family).options[option] is None else {f"{family}.{option}": None}
    assert record_of(run, "r", kd, own=own).overrides == {f"{family}.name": name, **also, **unknown}
    with pytest.raises(LedgerError, match=f"the run has {family} '{name}', and nobody says what that is by default"):
        record_of(run, "r", kd)


@pytest.mark.parametrize("name", BEFORE)
def test_a_setting_that_came_later_is_what_was_done_before_it_of_another_member_too(
    tmp_path: Path, kd: Config, name: str
) -> None:
    names = {"data": "cifar100", "model": "resnet18", "method": "metadistiller", "teacher": None}
    own = written_out(with_members(kd, names))
    run = finished(tmp_path / "run", own)
    forget(run, name)
    assert record_of(run, "r", kd, own=own).overrides == {"method.name": "metadistiller", "teacher": None}


def test_the_same_run_is_the_same_whatever_it_is_started_from(path: Path, tmp_path: Path) -> None:
    """As `compare --methods plain,metadistiller` and as the method's own recipe: entering knows what goes with what."""
    config = written_out(recipe("cifar100_wrn16_1_dsn"))
    run = finished(tmp_path / "run", config)
    for started_from in ("cifar100_wrn16_1_dsn", "cifar100_wrn16_1_metadistiller", "cifar100_wrn16_1_plain"):
        enter(run, path.parent, started_from=started_from, command="c")
    assert [record.overrides for record in read(path)] == [{}, {"method.name": "dsn"}, {"method.name": "dsn"}]
    write_text(run.config, "data: 3")
    with pytest.raises(CheckpointError, match="does not name what the run was made of"):
        enter(run, path.parent, started_from="digits", command="c")


# Where the data lies


def test_every_data_set_is_told_by_its_name_or_by_its_folder() -> None:
    by_folder = {"folder", "parquet", "stream", "table"}
    assert set(table(FAMILIES["data"][0])) == SAME_EVERYWHERE | by_folder


@pytest.mark.parametrize("name", ["folder", "parquet", "stream", "table"])
@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("/home/somebody/photos/", "photos"),
        ("photos", "photos"),
        ("runs/photos", "photos"),
        ("~/my photos", "my photos"),
        ("/data/my photos, old", "my photos, old"),
        ("file:///home/somebody/photos", "photos"),
        ("file:photos", "photos"),
        (".", "FOLDER"),
        ("..", "FOLDER"),
        ("/", "FOLDER"),
        ("~", "FOLDER"),
    ],
)
def test_of_one_s_own_data_the_folder_says_which(tmp_path: Path, name: str, root: str, told: str) -> None:
    config = written_out(recipe(name))
    run = finished(
        tmp_path / "run", replace(config, data=Choice(name=name, options=config.data.options | {"root": root}))
    )
    assert record_of(run, name, config).overrides == {"data.root": told}


@pytest.mark.parametrize("name", [*sorted(SAME_EVERYWHERE), "hf:ethz/food101"])
def test_a_data_set_of_a_name_is_the_same_wherever_it_lies(tmp_path: Path, kd: Config, name: str) -> None:
    config = written_out(with_members(kd, {**NAMES_OF_KD, "data": name}))
    run = finished(
        tmp_path / "run", replace(config, data=Choice(name=name, options=config.data.options | {"root": "/a"}))
    )
    assert record_of(run, "r", config).overrides == {}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/somebody/a.safetensors", "a.safetensors"),
        ("runs/a.safetensors", "a.safetensors"),
        ("a.safetensors", "a.safetensors"),
    ],
)
def test_two_files_to_begin_with_are_two_settings(tmp_path: Path, kd: Config, value: str, told: str) -> None:
    run = finished(tmp_path / "run", replace(kd, weights=value))
    assert record_of(run, "r", kd).overrides == {"weights": told}


def test_no_path_of_a_setting_is_told_wherever_it_stands(tmp_path: Path, kd: Config) -> None:
    options = {**kd.method.options, "alpha": ["/home/somebody/x", {"y": "see /home/somebody/z, and timm/a"}]}
    run = finished(tmp_path / "run", replace(kd, method=Choice(name="kd", options=options)))
    assert record_of(run, "r", kd).overrides == {"method.alpha": ["x", {"y": "see z, and timm/a"}]}


@pytest.mark.parametrize("name", BEFORE)
def test_a_setting_that_came_later_is_what_was_done_before_it(tmp_path: Path, name: str) -> None:
    config = written_out(
        Config(data=Choice(name="digits"), model=Choice(name="resnet10"), method=Choice(name="metadistiller"))
    )
    run = finished(tmp_path / "run", config)
    # Before means that its default changed nothing.
    assert forget(run, name) == BEFORE[name]
    assert record_of(run, "r", config).overrides == {}
    # A recipe that has come to another value since was not what the run did.
    family, dot, option = name.partition(".")
    if dot:
        chosen: Choice = getattr(config, family)
        other = replace(config, **{family: replace(chosen, options={**chosen.options, option: "other"})})
    else:
        other = replace(config, **{name: 0.5})
    assert record_of(run, "r", other).overrides == {name: BEFORE[name]}


def forget(run: RunFolder, name: str) -> Any:
    """Make a run older than a setting; returns what it was."""
    values = run.read_config()
    *families, option = name.split(".")
    within = values[families[0]] if families else values
    forgotten = within.pop(option)
    write_text(run.config, yaml.safe_dump(values))
    return forgotten


def test_a_setting_that_an_older_run_does_not_know_is_an_override(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    values = run.read_config()
    del values["label_smoothing"], values["method"]["alpha"]
    write_text(run.config, yaml.safe_dump(values))
    assert record_of(run, "r", kd).overrides == {"label_smoothing": None, "method.alpha": None}


def test_a_recipe_without_its_defaults_is_refused(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    with pytest.raises(LedgerError, match=r"the recipe has no such setting; write the recipe's defaults out"):
        record_of(run, "r", recipe("cifar100_resnet18_kd"))


@pytest.mark.parametrize("name", ["cifar100_wrn16_1_metadistiller", "imagenet_resnet18_dsn", "cifar100_resnet50_dml"])
def test_a_run_of_the_recipe_itself_has_no_overrides(tmp_path: Path, name: str) -> None:
    config = written_out(recipe(name))
    assert record_of(finished(tmp_path / "run", config), name, config).overrides == {}


def test_nothing_of_the_machine_gets_into_the_file(path: Path, tmp_path: Path, kd: Config) -> None:
    data = {**kd.data.options, "root": "/home/somebody/data"}
    run = finished(tmp_path / "run", replace(kd, data=Choice(name="cifar100", options=data)), teacher=TAUGHT)
    append(path, record_of(run, "r", kd))
    append(path, record_of(run, "s", kd, command="metadistiller train --config=~/a.yaml '/my data' --x '[/a, /b]'"))
    text = path.read_text()
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert [record.command for record in read(path)] == [
        "metadistiller train r --data.root FOLDER --out FOLDER",
        "metadistiller train --config=FOLDER FOLDER --x '[FOLDER, FOLDER]'",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "metadistiller train cifar100 --data.root FOLDER",
        "metadistiller train --out runs/a --model torchvision/resnet18 --optim.milestones '[0.4, 0.7]'",
        "it's half a quote",
        "metadistiller train --data https://example.org/a",
        "metadistiller train --data file:a --x profile:/1",
        "",
    ],
)
def test_what_means_the_same_everywhere_stays(text: str) -> None:
    assert portable(text) == text


def test_a_path_goes_where_quotes_do_not_match_too() -> None:
    assert portable("it's /home/somebody/x here") == "it's FOLDER here"


@pytest.mark.parametrize(
    "address",
    [
        "file:///home/somebody/x",
        "file:/home/somebody/x",
        "FILE:///home/somebody/x",
        "file://~/somebody",
        "zip:///home/somebody/x.zip",
    ],
)
def test_a_path_goes_as_an_address_too(address: str) -> None:
    assert portable(f"train --data.root {address} --x={address} '[{address}, 1]' '{address} b'") == (
        "train --data.root FOLDER --x=FOLDER '[FOLDER, 1]' FOLDER"
    )
    assert portable(f"it's {address} here") == "it's FOLDER here"


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


def test_the_names_of_the_package_are_what_is_there() -> None:
    assert sorted(ledger.__all__) == ledger.__all__
    assert all(hasattr(ledger, name) for name in ledger.__all__)
    assert set(RECORD.as_dict()) == {"id", *asdict(RECORD)}
    assert Optim() == recipe("cifar100_resnet18_kd").optim
