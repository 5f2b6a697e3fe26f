"""Whole runs on several ranks: other ranks go on, a dead one ends the job, a signal to one stops all."""

import csv
import io
import random
import re
import signal
from pathlib import Path

import interruptions
import pytest
from _rank_runs import SHAPES, Change, Killed, asked_on_one, commanded, logged, whole
from _world import run
from litdata.streaming.writer import BinaryWriter
from PIL import Image

import metadistiller
from metadistiller import launch
from metadistiller.cli import main
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine.checkpoint import list_checkpoints, load_checkpoint
from metadistiller.errors import ConfigError, DataError
from metadistiller.ranks import Ranks
from metadistiller.records import RunFolder


def test_other_ranks_and_workers_go_on_with_the_same_batches(tmp_path: Path) -> None:
    change = Change(tmp_path)
    pairs = [((1, 0), (2, 1)), ((2, 4), (4, 1)), ((4, 0), (1, 4)), ((2, 1), (2, 0))]
    assert all(shape in SHAPES for pair in pairs for shape in pair)
    for steps, (before, after) in zip((2, 5, 7, 4), pairs, strict=True):
        assert change.objection(before, after, steps) is None


def test_shards_on_disk_give_four_ranks_with_two_workers_each_sample_once(tmp_path: Path) -> None:
    drawn = random.Random(0)
    for part, count in (("train", 36), ("val", 12)):
        writer = BinaryWriter(str(tmp_path / "shards" / part), chunk_size=5)
        for number in range(count):
            file = io.BytesIO()
            Image.frombytes("RGB", (16, 16), drawn.randbytes(3 * 16 * 16)).save(file, "png")
            writer[number] = {"image": file.getvalue(), "label": "abc"[number % 3]}
        writer.done()
        writer.merge()
    found = whole(run(logged, 4, tmp_path / "shards", tmp_path / "four", 2, 99, "stream"))
    for epoch in (0, 1):
        seen = [image for name, at, _, images in found if (name, at) == ("train", epoch) for image in images]
        assert sorted(seen) == list(range(36))
    assert found == whole(run(logged, 1, tmp_path / "shards", tmp_path / "one", 1, 99, "stream"))


def test_a_rank_that_is_killed_ends_the_job_by_name_and_torchrun_restarts_it_to_the_same_bits(tmp_path: Path) -> None:
    killed = Killed(tmp_path, 2)
    assert killed.objection(5, 1, restarts=0) is None
    assert killed.objection(3, 0, restarts=1) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_at_one_place(tmp_path: Path, number: int) -> None:
    words = [*interruptions.words_of(tmp_path), f"--out={tmp_path / 'run'}"]
    assert run(asked_on_one, 2, words, 4, int(number)) == [3, 3]
    newest = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert (newest.progress.epoch, newest.progress.step) == (1, 2)
    assert run(commanded, 2, words) == [0, 0]
    assert RunFolder(tmp_path / "run").finished


@pytest.mark.parametrize("method", ["dml", "fitnet"])
def test_methods_with_a_second_network_run_on_ranks(method: str, tiny_config: Config, tmp_path: Path) -> None:
    """fitnet has its teacher trained first, by the same ranks."""
    first, second = run(trained, 2, method, tmp_path / "run")
    assert first == second
    (alone,) = run(trained, 1, method, tmp_path / "alone")
    assert first["final"] == pytest.approx(alone["final"], abs=10)
    folder = RunFolder(tmp_path / "run")
    assert folder.report.exists()
    starts = [event for event in folder.read_events() if event["event"] == "start"]
    assert [event["environment"]["ranks"] for event in starts] == [2]
    assert len(list(csv.DictReader(folder.results.read_text().splitlines()))) == 2


def trained(ranks: Ranks, method: str, out: Path) -> dict[str, object]:
    config = Config(
        data=Choice(name="digits", options={"train_per_class": 4}),
        model=Choice(name="resnet10", options={"width": 4}),
        method=Choice(name=method, options={"hint_epochs": 1} if method == "fitnet" else {}),
        teacher=Teacher(name="resnet10", options={"width": 4}),
        epochs=2,
        batch_size=16,
        batch_statistics="synchronised",
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )
    result = metadistiller.train(config, out, quiet=True).result
    return {key: result[key] for key in ("exits", "final", "ensemble")}


@pytest.mark.parametrize("command", ["compare", "reproduce"])
def test_commands_that_start_runs_are_refused_under_torchrun(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.several()
    with pytest.raises(ConfigError, match="without torchrun"):
        launch.refuse_several(command)
    assert main([command, *(["table1"] if command == "reproduce" else [])]) == 2
    assert "torchrun" in capsys.readouterr().err


def test_too_small_a_batch_for_the_ranks_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="less than 2 images for each of 4 ranks"):
        run(too_small, 4, tmp_path)


def too_small(ranks: Ranks, place: Path) -> None:
    config = Config(
        data=Choice(name="digits"),
        model=Choice(name="resnet10", options={"width": 2}),
        method=Choice(name="plain"),
        epochs=1,
        batch_size=7,
        threads=1,
    )
    metadistiller.train(config, place / "run", quiet=True)


def test_ranks_with_different_images_all_say_so_before_there_is_a_folder(tmp_path: Path) -> None:
    said = run(of_other_images, 2, tmp_path)
    assert [re.findall(r"ranks have read different images.*this one ([0-9]+) training", each) for each in said] == [
        ["30"],
        ["40"],
    ]
    assert not (tmp_path / "run").exists()


def of_other_images(ranks: Ranks, place: Path) -> str:
    """What it ends with, where one of them has more images a class."""
    config = Config(
        data=Choice(name="digits", options={"train_per_class": 3 + ranks.rank}),
        model=Choice(name="resnet10", options={"width": 2}),
        method=Choice(name="plain"),
        epochs=1,
        batch_size=8,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )
    with pytest.raises(DataError) as caught:
        metadistiller.train(config, place / "run", quiet=True)
    return str(caught.value)


def test_a_gpu_of_one_number_is_not_for_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from metadistiller.ranks import joined

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="needs a GPU of its own"), joined("cuda:1"):
        pass
