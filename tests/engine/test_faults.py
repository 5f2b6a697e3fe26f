"""Nothing that disks, kills or people do to checkpoints loses more than the newest, or is taken for a whole one."""

import errno
import importlib
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metadistiller import assemble, records
from metadistiller.config import Config
from metadistiller.engine import checkpoint as checkpoints
from metadistiller.engine.checkpoint import (
    Checkpoint,
    Progress,
    list_checkpoints,
    load_checkpoint,
    newest_valid,
    save_checkpoint,
)
from metadistiller.engine.watch import Lines
from metadistiller.errors import CheckpointError
from metadistiller.records import RunFolder, read_json

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "format1"
SCENES = (
    "nothing is there",
    "one is there",
    "one of the same place is there",
    "left-overs are there",
    "later ones are damaged",
)
IDENTITY = {"method": "dsn", "network": "resnet10", "data": "digits"}


@pytest.fixture
def faults() -> ModuleType:
    return importlib.import_module("_faults")


@pytest.fixture
def damage() -> ModuleType:
    return importlib.import_module("_damage")


def example(epoch: int, step: int = 0, *, mark: float = 0.0, identity: dict[str, str] = IDENTITY) -> Checkpoint:
    return Checkpoint(Progress(epoch, step, mark, {}, identity), {"weight": torch.full((2, 2), mark)}, {})


# A save that fails


def objections(faults: ModuleType, folder: Path, scene: str) -> list[tuple[object, ...]]:
    points = list(faults.points(folder, scene))
    assert len(points) > 150
    return [(*point, found) for point in points if (found := faults.objection(folder, scene, *point))]


@pytest.mark.parametrize("scene", SCENES)
def test_wherever_a_save_fails_or_is_killed_the_one_before_is_whole(
    faults: ModuleType, tmp_path: Path, scene: str
) -> None:
    assert objections(faults, tmp_path / "checkpoints", scene) == []


def test_every_write_sync_and_rename_is_a_point(faults: ModuleType, tmp_path: Path) -> None:
    assert set(faults.SCENES) == set(SCENES)
    with faults.Faults() as counted:
        save_checkpoint(tmp_path / "checkpoints", example(1), keep=1)
    # Four files; the folder of them, the folder of checkpoints and, since that is new, the one around it.
    expected = {"open file": 4, "write": 4, "flush": 4, "fsync": 7, "mkdir": 2, "rename": 1, "statvfs": 1}
    assert {name: counted.calls.count(name) for name in expected} == expected


def test_a_gap_between_the_old_and_the_new_is_found(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def makes_room(folder: Path, name: str) -> str:
        shutil.rmtree(folder / name, ignore_errors=True)
        return name

    monkeypatch.setattr(checkpoints, "_free_name", makes_room)
    assert objections(faults, tmp_path / "checkpoints", "one of the same place is there")
    assert not objections(faults, tmp_path / "checkpoints", "one is there")


def test_left_overs_that_stay_are_found(faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_LEFT_OVER", ".e0002-*.partial")
    assert objections(faults, tmp_path / "checkpoints", "left-overs are there")


def test_one_of_the_same_place_gets_a_name_of_its_own_and_takes_its_turn(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example(1, 7), keep=2)
    (tmp_path / "e0002-s000000").write_text("a file that somebody has put there")
    for mark, name in ((1.0, "e0001-s000007-2"), (2.0, "e0001-s000007-3")):
        assert save_checkpoint(tmp_path, example(1, 7, mark=mark), keep=2).name == name
        assert [path.name for path in list_checkpoints(tmp_path)] == [name]
        found, _ = newest_valid(tmp_path, IDENTITY)
        assert found is not None
        assert found.progress.seconds == mark
    assert save_checkpoint(tmp_path, example(2), keep=2).name == "e0002-s000000-2"


def test_the_later_of_one_place_is_the_newest(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for mark in range(12):
        path = save_checkpoint(tmp_path, example(1, mark=mark), keep=1)
        path.rename(tmp_path / "kept" / f"e0001-s000000{f'-{mark + 1}' if mark else ''}")
    found, _ = newest_valid(tmp_path / "kept", IDENTITY)
    assert found is not None
    assert found.progress.seconds == 11


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save_checkpoint(tmp_path, example(1), keep=1)
    total = sum(path.stat().st_size for path in kept.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=total - 1))
    with pytest.raises(CheckpointError, match=rf"it takes {total} bytes, {total - 1} are free.*free some space"):
        save_checkpoint(tmp_path, example(2), keep=1)
    assert list(tmp_path.iterdir()) == [kept]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=total))
    assert save_checkpoint(tmp_path, example(2), keep=1).name == "e0002-s000000"


def test_a_run_whose_disk_is_full_for_a_while_ends_as_if_it_had_not_been(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = assemble.train(tiny_config, tmp_path / "whole", quiet=True).folder
    full = {"now": False}
    append, write, save = RunFolder.append_event, records.write_bytes, checkpoints._write

    def unless_full(does: Any) -> Any:
        def tried(*args: Any, **options: Any) -> Any:
            if full["now"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return does(*args, **options)

        return tried

    made = assemble.assemble

    def with_a_full_disk(*args: Any, **options: Any) -> Any:
        job = made(*args, **options)
        whole_batch = job.batches.batch

        def batch(stream: Any, *, epoch: int, step: int) -> Any:
            # From the second epoch's first batch to the third's.
            full["now"] = epoch == 1
            return whole_batch(stream, epoch=epoch, step=step)

        job.batches.batch = batch  # type: ignore[method-assign]
        return job

    monkeypatch.setattr(RunFolder, "append_event", unless_full(append))
    monkeypatch.setattr(records, "write_bytes", unless_full(write))
    monkeypatch.setattr(checkpoints, "_write", unless_full(save))
    monkeypatch.setattr(assemble, "assemble", with_a_full_disk)
    folder = assemble.train(tiny_config, tmp_path / "run", quiet=True).folder
    assert (folder / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    told = (folder / "log.txt").read_text()
    assert "checkpoint not saved, training goes on: [Errno 28]" in told
    assert "event 'epoch' is missing" in told
    assert "event 'save_failed' is missing" in told


def test_a_line_that_a_full_disk_does_not_take_stops_nothing() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no disk that is always full")
    full = open("/dev/full", "w")  # noqa: SIM115  # its end is what fails
    Lines(full).note("one line")
    with pytest.raises(OSError, match="No space"):
        full.close()


# Damage


def test_whatever_is_damaged_is_refused_by_name_before_a_tensor_is_read(damage: ModuleType, tmp_path: Path) -> None:
    pair = damage.Pair(tmp_path / "checkpoints")
    assert [found for number in range(500) if (found := pair.objection(number))] == []


def unverified(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in checkpoints._FILES}


def test_without_the_manifest_damage_is_taken_for_a_checkpoint(
    damage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = damage.Pair(tmp_path / "checkpoints")
    monkeypatch.setattr(checkpoints, "_verified", unverified)
    for kind in (damage.flipped_bit, damage.zeroed_page, damage.swapped_pages, damage.of_the_earlier):
        assert any(pair.objection(number, (kind,)) for number in range(5)), kind.__name__


def test_no_damage_is_no_refusal(damage: ModuleType, tmp_path: Path) -> None:
    pair = damage.Pair(tmp_path / "checkpoints")
    found = pair.objection(0, (lambda draw, files, earlier: ("state.json",),))
    assert found.endswith("epoch 2 was taken, 0 refused")


def test_what_else_lies_in_the_folder_is_not_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, example(1), keep=1)
    (path / "optimizer.pkl").write_bytes(b"\x80")
    assert load_checkpoint(path).progress.epoch == 1


@pytest.mark.parametrize("name", ["manifest.json", "method.safetensors"])
def test_a_pipe_a_device_or_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, example(1), keep=1)
    for replaced in (os.mkfifo, os.mkdir, lambda place: os.symlink("/dev/zero", place)):
        (path / name).unlink()
        replaced(path / name)
        with pytest.raises(CheckpointError, match=rf"{name} cannot be read: it is no plain file"):
            load_checkpoint(path)
        (path / name).rmdir() if (path / name).is_dir() else (path / name).unlink()
        (path / name).touch()


@pytest.mark.parametrize(
    "state",
    [
        *("[]", "null", "{", '{"epoch": 1}', "[" * 9999, '{"epoch": 1e999, "step": 0}'),
        '{"epoch": 1, "step": 0, "seconds": 0, "means": {"loss": 3}, "identity": {}}',
        '{"epoch": 1, "step": 0, "seconds": 0, "means": [], "identity": {}}',
        '{"epoch": 1, "step": 0, "seconds": 0, "means": {}, "identity": 7}',
        '{"epoch": 1, "step": 0, "seconds": [], "means": {}, "identity": {}}',
    ],
)
def test_a_state_that_somebody_has_made_up_is_refused_whatever_its_hashes(tmp_path: Path, state: str) -> None:
    """Hashes tell of damage and not of malice: who can write the files can write the manifest."""
    path = forged(tmp_path, "state.json", state.encode())
    with pytest.raises(CheckpointError, match=r"state\.json is not the state of a run"):
        load_checkpoint(path)


def test_tensors_that_somebody_has_made_up_are_refused_whatever_their_hashes(tmp_path: Path) -> None:
    for data in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}" + bytes(8), b"\x80\x04N."):
        with pytest.raises(CheckpointError, match=r"method\.safetensors is not a safetensors file"):
            load_checkpoint(forged(tmp_path, "method.safetensors", data))


def forged(folder: Path, name: str, data: bytes) -> Path:
    path = save_checkpoint(folder, example(1), keep=1)
    (path / name).write_bytes(data)
    listed = json.loads((path / "manifest.json").read_text())
    listed["files"][name] = {"size": len(data), "sha256": checkpoints._sha256(data)}
    listed["digest"] = checkpoints._sha256(checkpoints._json(listed["files"]))
    (path / "manifest.json").write_bytes(checkpoints._json(listed))
    return path


def test_a_renamed_folder_is_not_taken_for_a_later_place(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, example(epoch), keep=2)
    shutil.copytree(tmp_path / "e0001-s000000", tmp_path / "e0009-s000000")
    found, refused = newest_valid(tmp_path, IDENTITY)
    assert found is not None
    assert found.progress.epoch == 2
    assert refused == [f"{tmp_path / 'e0009-s000000'} holds e0001-s000000 in its state.json; was the folder renamed?"]
    # Elsewhere a copy may be called what its owner likes.
    assert load_checkpoint(shutil.copytree(tmp_path / "e0002-s000000", tmp_path / "best")).progress.epoch == 2


@pytest.mark.parametrize(
    "name", ["--data", "../../x", "<script>", "=cmd()", "a\nb", "\u202etxt", "\udc80", "x" * 300, ""]
)
def test_no_name_in_the_identity_breaks_anything(tmp_path: Path, name: str) -> None:
    wanted = IDENTITY | {"data": name}
    path = save_checkpoint(tmp_path, example(1, identity=wanted), keep=1)
    assert load_checkpoint(path).progress.identity == wanted
    with pytest.raises(CheckpointError, match="was written with data") as caught:
        newest_valid(tmp_path, IDENTITY)
    assert "\n" not in str(caught.value)
    assert [path] == list(tmp_path.iterdir())


# Of earlier versions


def test_a_checkpoint_of_format_1_loads() -> None:
    """Written by the first version; what later ones do to the format, this one stays readable."""
    (path,) = list_checkpoints(GOLDEN)
    found = load_checkpoint(path)
    means = {"loss": (1.5, 3), "exit_1_hard": (0.30000000000000004, 3)}
    assert found.progress == Progress(3, 120, 12.345678901234567, means, IDENTITY)
    assert torch.equal(found.method["weight"], torch.arange(6.0).view(2, 3))
    assert found.method["steps"].dtype == torch.int64
    assert torch.equal(found.optimizers["student/weight/momentum_buffer"], torch.full((2, 3), -0.5))
    assert read_json(path / "manifest.json")["format"] == 1
