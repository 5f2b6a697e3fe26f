"""A checkpoint is whole or refused: every byte is checked before a tensor is used."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from metadistiller.engine import checkpoint as checkpoints
from metadistiller.engine.checkpoint import (
    Checkpoint,
    Progress,
    list_checkpoints,
    load_checkpoint,
    newest_valid,
    save_checkpoint,
)
from metadistiller.errors import CheckpointError

IDENTITY = {"method": "dsn", "network": "resnet10", "data": "digits"}


def example(epoch: int = 1, step: int = 0) -> Checkpoint:
    drawn = torch.Generator().manual_seed(epoch)
    means = {"loss": (0.1 + 0.2, 3), "final_hard": (1 / 3, 3)}
    return Checkpoint(
        Progress(epoch, step, 12.345678901234567, means, IDENTITY),
        {"weight": torch.randn(4, 3, generator=drawn), "steps": torch.tensor(7)},
        {"student/weight/momentum_buffer": torch.randn(4, 3, generator=drawn)},
    )


def same(a: Checkpoint, b: Checkpoint) -> bool:
    tensors = all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
        for x, y in ((a.method, b.method), (a.optimizers, b.optimizers))
    )
    return tensors and a.progress == b.progress


def test_what_is_saved_is_what_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, example(3, 40), keep=2)
    assert path.name == "e0003-s000040"
    assert same(load_checkpoint(path), example(3, 40))


def test_channels_last_tensors_keep_their_values(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    path = save_checkpoint(tmp_path, Checkpoint(Progress(), {"w": image}, {}), keep=1)
    assert torch.equal(load_checkpoint(path).method["w"], image)


def test_only_the_newest_are_kept_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    for epoch in (1, 2, 9999, 10000):
        save_checkpoint(tmp_path, example(epoch), keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["e9999-s000000", "e10000-s000000"]
    assert len(list(tmp_path.iterdir())) == 2
    found, _ = newest_valid(tmp_path, IDENTITY)
    assert found is not None
    assert found.progress.epoch == 10000


def test_steps_are_ordered_as_numbers_too(tmp_path: Path) -> None:
    for step in (999999, 1000000):
        save_checkpoint(tmp_path, example(3, step), keep=1)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["e0003-s1000000"]


def test_damaged_ones_that_sort_later_do_not_take_the_place_of_new_ones(tmp_path: Path) -> None:
    """A run that fell back from epoch 9 to epoch 1 must be able to keep epoch 2."""
    for epoch in (1, 8, 9):
        save_checkpoint(tmp_path, example(epoch), keep=5)
    save_checkpoint(tmp_path, example(2), keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["e0001-s000000", "e0002-s000000"]


def damages() -> dict[str, object]:
    def flip(place: float, bit: int) -> object:
        def damage(data: bytes) -> bytes:
            position = min(len(data) - 1, int(place * len(data)))
            return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]

        return damage

    found: dict[str, object] = {
        f"bit {bit} at {place}": flip(place, bit) for place, bit in ((0.0, 0), (0.2, 3), (0.5, 7), (0.8, 1), (0.999, 5))
    }
    return found | {
        "cut": lambda data: data[:-1],
        "emptied": lambda data: b"",
        "longer": lambda data: data + b" ",
        "zeroed": lambda data: bytes(len(data)),
    }


@pytest.mark.parametrize("name", ["method.safetensors", "optimizers.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", damages())
def test_every_damage_of_every_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = save_checkpoint(tmp_path, example(), keep=2)
    data = (path / name).read_bytes()
    (path / name).write_bytes(damages()[damage](data))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["method.safetensors", "optimizers.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, example(), keep=2)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(path)


def test_files_swapped_between_two_checkpoints_are_refused(tmp_path: Path) -> None:
    first, second = (save_checkpoint(tmp_path, example(epoch), keep=2) for epoch in (1, 2))
    shutil.copy(first / "method.safetensors", second / "method.safetensors")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(second)


def test_another_format_is_refused_even_when_its_hashes_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    path = save_checkpoint(tmp_path, example(), keep=2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"format 99.*version"):
        load_checkpoint(path)


def test_the_newest_whole_one_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, example(epoch), keep=5)
    (tmp_path / "e0003-s000000" / "state.json").write_text("{}")
    (tmp_path / ".e0004-s000000.partial").mkdir()
    found, refused = newest_valid(tmp_path, IDENTITY)
    assert found is not None
    assert found.progress.epoch == 2
    assert len(refused) == 1
    assert "e0003-s000000/state.json" in refused[0].replace("\\", "/")


def test_a_checkpoint_of_another_run_is_refused_not_skipped(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example(), keep=2)
    with pytest.raises(CheckpointError, match=r"method 'dsn', this run has 'plain'.*--out"):
        newest_valid(tmp_path, IDENTITY | {"method": "plain"})


def test_nothing_whole_among_several_is_an_error_and_not_a_new_beginning(tmp_path: Path) -> None:
    for epoch in (1, 2):
        (save_checkpoint(tmp_path, example(epoch), keep=5) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used: .*state\.json.*delete them"):
        newest_valid(tmp_path, IDENTITY)


def test_no_checkpoint_at_all_is_a_beginning(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "nowhere", IDENTITY) == (None, [])


def test_a_save_that_fails_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save_checkpoint(tmp_path, example(1), keep=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
        save_checkpoint(tmp_path, example(2), keep=1)
    monkeypatch.undo()
    assert list_checkpoints(tmp_path) == [kept]
    assert same(load_checkpoint(kept), example(1))
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]


def test_the_files_hold_no_pickle_and_state_is_plain_json(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, example(), keep=1)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    state = json.loads((path / "state.json").read_text())
    assert state["means"]["final_hard"] == [1 / 3, 3]
