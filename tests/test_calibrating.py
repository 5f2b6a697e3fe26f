"""From a finished run to an early-exit network, and what is said of it; and each thing that cannot be meant."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import metadistiller
from metadistiller import outcomes as kept
from metadistiller.building import load_data
from metadistiller.calibrating import _macs, _sample
from metadistiller.cli import main
from metadistiller.config import Choice, Config, Optim
from metadistiller.data import evaluation_images, normalised
from metadistiller.engine import latency
from metadistiller.errors import CheckpointError, ConfigError, ExportError
from metadistiller.outcomes import chosen
from metadistiller.outcomes.choosing import choose, held_out
from metadistiller.outcomes.policy import Policy, choices, confidences, loss, simulate, uniform
from outcomes.made import made

CONFIG = Config(
    data=Choice(name="digits", options={"train_per_class": 60}),
    model=Choice(name="resnet10", options={"width": 4}),
    method=Choice(name="dsn"),
    optim=Optim(lr=0.1),
    epochs=10,
    batch_size=64,
    eval_batch_size=400,
    precision="float32",
    memory_format="contiguous",
    threads=1,
)
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return metadistiller.train(CONFIG, tmp_path_factory.mktemp("runs") / "run", quiet=True).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "FEWEST", 1)
    monkeypatch.setattr(latency, "SECONDS", 0.0)


def fails(words: list[str], capsys: Captured) -> tuple[int, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    return code, err


# What is written


def test_thresholds_are_chosen_on_one_half_and_told_of_the_other(run: Path) -> None:
    found = metadistiller.calibrate(run, max_loss=3.0, latency=False).found
    said = kept.read(run / "outcomes.safetensors")
    choosing = held_out(said.labels, 0.5)
    assert (found.held_out.chosen_on, found.held_out.measured_on) == (choosing.sum(), (~choosing).sum())
    row = found.chosen
    measured = simulate(said.of(~choosing), found.policy)
    assert (row.accuracy, row.macs, row.left) == (measured.accuracy, measured.macs, measured.left)
    assert row.loss == loss(said.of(~choosing), found.policy).points
    assert (found.plain.accuracy, found.plain.macs) == (100 * said.right[-1, ~choosing].mean(), said.trunk_macs[-1])
    assert row.saved == pytest.approx(100 * (1 - row.macs / found.plain.macs))
    assert row.saved > 0
    # Other answers in the half that is told of change no threshold; the network itself no longer agrees with them.
    wrong = replace(said, logits=said.logits + 5 * np.eye(10)[(said.labels + 3) % 10] * ~choosing[:, None])
    kept.write(wrong, run / "outcomes.safetensors")
    with pytest.raises(ExportError, match="nothing was written"):
        metadistiller.calibrate(run, max_loss=3.0, latency=False)
    assert choose(wrong.of(choosing), max_loss=3.0) == found.policy


def test_predict_answers_from_the_file_alone_and_early(run: Path, tmp_path: Path) -> None:
    calibrated = metadistiller.calibrate(run, max_loss=3.0, latency=False)
    moved = tmp_path / "elsewhere" / "net.safetensors"
    moved.parent.mkdir()
    shutil.move(calibrated.network, moved)
    shutil.rmtree(run)
    classifier = metadistiller.load_early_exit(moved)
    pixels = load_data(CONFIG.data).test.pixels(torch.arange(0, 60, 3))
    files = [tmp_path / f"{place:02d}.png" for place in range(len(pixels))]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    expected = classifier(normalised(pixels, classifier.shown.mean, classifier.shown.std))
    found = metadistiller.predict(moved, files)
    assert found.early
    assert len({answer.exit for answer in found.answers}) > 1
    names = [f"exit {k + 1}" if k < 3 else "final" for k in expected.exits.tolist()]
    assert [answer.exit for answer in found.answers] == names
    assert [answer.name for answer in found.answers] == [str(label) for label in expected.answers.tolist()]
    # One threshold for every exit, certainty, which the exits of so short a run never have.
    assert {answer.exit for answer in metadistiller.predict(moved, files, threshold=1.0).answers} == {"final"}
    with pytest.raises(CheckpointError, match="load_early_exit"):
        metadistiller.load_network(moved)


def test_the_network_in_the_file_does_what_is_told(run: Path) -> None:
    """Counts and answers over the other half are those of the record."""
    found = metadistiller.calibrate(run, max_loss=3.0, latency=False)
    classifier = metadistiller.load_early_exit(found.network)
    assert classifier.policy == found.found.policy == chosen.read(found.record).policy
    dataset = metadistiller.assemble.restore(run).dataset
    said = kept.read(run / "outcomes.safetensors")
    rest = said.of(~held_out(said.labels, 0.5))
    pixels = dataset.test.pixels(torch.from_numpy(rest.index))
    answered = classifier(evaluation_images(pixels, dataset))
    assert np.bincount(answered.exits.numpy(), minlength=4).tolist() == list(found.found.chosen.left)
    right = (answered.answers.numpy() == rest.labels).mean()
    assert 100 * right == pytest.approx(found.found.chosen.accuracy)
    assert found.found.proved == {"images": len(rest.labels), "same": len(rest.labels)}
    assert classifier.shown.classes == dataset.classes


@pytest.mark.usefixtures("quick")
def test_the_command_tells_what_it_writes(run: Path, capsys: Captured) -> None:
    before = (run / "report.html").read_bytes()
    assert main(["calibrate", str(run), "--max-loss", "3"]) == 0
    out = capsys.readouterr().out
    record = json.loads((run / "early_exit.json").read_text())
    found = chosen.read(run / "early_exit.json")
    assert [row.name for row in found.measured][:2] == ["plain network", "early exit"]
    assert [each.batch for each in found.plain.latency] == [1, 32, 256]
    assert all(each.ratio == 1 for each in found.plain.latency)
    assert all(each.ms > 0 for row in found.measured for each in row.latency)
    assert found.machine is not None
    assert found.machine["precision"] == "float32"
    assert "of the run's test images" in out
    assert f"{found.chosen.accuracy:.2f}" in out
    assert str(run / "early_exit.safetensors") in out
    assert main(["calibrate", str(run), "--max-loss", "3", "--json", "--no-latency"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((run / "early_exit.json").read_text())
    assert printed["thresholds"] == record["thresholds"]
    assert (printed["machine"], printed["measured"][0]["latency"]) == (None, [])
    assert (run / "report.html").stat().st_size >= len(before) / 2


def test_a_cost_as_the_target(run: Path) -> None:
    said = kept.read(run / "outcomes.safetensors")
    plain = said.trunk_macs[-1]
    for text, number in (("60%", 0.6 * plain), (str(0.6 * plain), 0.6 * plain)):
        found = metadistiller.calibrate(run, mean_macs=text, latency=False).found
        assert found.target == chosen.Target(mean_macs=number)
        assert simulate(said.of(held_out(said.labels, 0.5)), found.policy).macs <= number
        assert found.chosen.macs < 0.7 * plain


def test_costs_in_words() -> None:
    assert [_macs(text, 200) for text in ("40M", "1.5G", "20k", "7", "50%")] == [40e6, 1.5e9, 20e3, 7, 100]


def test_another_share_of_the_images_may_choose(run: Path) -> None:
    found = metadistiller.calibrate(run, max_loss=3.0, share=0.8, latency=False).found
    assert found.held_out.chosen_on > 3 * found.held_out.measured_on


# What stands for all in a measurement of time


@pytest.mark.parametrize("count", [40, 300, 1000])
def test_each_first_part_of_the_sample_leaves_where_all_do(count: int) -> None:
    said, policy = made(count), uniform(4, 0.7)
    picked = _sample(said, {"early exit": policy, "other": uniform(4, 0.9)})
    chosen_exits = choices(confidences(said, policy.temperatures), policy.thresholds)
    shares = np.bincount(chosen_exits, minlength=4) / count
    for size in (64, 128, 256):
        part = np.bincount(chosen_exits[picked[:size]], minlength=4) / size
        assert np.abs(part - shares).max() <= 1.5 / min(size, count)


def test_a_network_that_does_twice_the_work_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the median of a repeat; what a call of each costs is set by hand."""
    clock = [0.0]

    def work(seconds: float) -> Callable[[torch.Tensor], None]:
        def network(images: torch.Tensor) -> None:
            clock[0] += seconds * len(images)

        return network

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    found = latency.latencies({"one": work(0.001), "two": work(0.002)}, torch.zeros(256, 3, 2, 2))
    assert [(each.batch, each.ms, each.ratio) for each in found["two"]] == [
        (batch, pytest.approx(2 * batch), pytest.approx(2)) for batch in (1, 32, 256)
    ]
    assert [each.images_per_second for each in found["one"]] == pytest.approx([1000] * 3)


# What cannot be meant


def test_an_unfinished_run(run: Path, capsys: Captured) -> None:
    (run / "result.json").unlink()
    assert fails(["calibrate", str(run)], capsys) == (
        1,
        f"error: {run} is not finished; 'metadistiller resume {run}' finishes it\n",
    )


def test_a_run_of_a_method_without_exits(tmp_path: Path, capsys: Captured) -> None:
    config = replace(CONFIG, method=Choice(name="plain"), epochs=1)
    run = metadistiller.train(config, tmp_path / "plain", quiet=True).folder
    code, err = fails(["calibrate", str(run)], capsys)
    assert code == 2
    assert (
        "was trained by plain, which has no early exits; train with a method that has them, such as metadistiller"
        in err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-loss", "-1"], "the loss of accuracy is -1.0"),
        (["--max-loss", "nan"], "the loss of accuracy is nan"),
        (["--mean-macs", "1%"], "out of reach"),
        (["--mean-macs", "many"], "mean_macs is 'many'"),
        (["--mean-macs=-5M"], "take a number above 0"),
        (["--mean-macs", ""], "mean_macs is ''"),
        (["--max-loss", "1", "--mean-macs", "60%"], "give one target, not both"),
        (["--held-out", "1"], "share of held-out images is 1.0"),
    ],
)
def test_targets_that_cannot_be_meant(run: Path, words: list[str], message: str, capsys: Captured) -> None:
    code, err = fails(["calibrate", str(run), *words], capsys)
    assert code == 2
    assert message in err
    assert not (run / "early_exit.json").exists()


def test_no_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run folder"):
        metadistiller.calibrate(tmp_path)


# The record


def record() -> chosen.EarlyExit:
    policy = Policy(temperatures=(1.0, 0.5), thresholds=(0.9,))
    plain = chosen.Row(
        name="plain network", policy=None, accuracy=90.0, loss=None, interval=None, macs=10.0, saved=0.0, left=(0, 10)
    )
    ours = chosen.Row(
        name="early exit",
        policy=policy,
        accuracy=89.0,
        loss=1.0,
        interval=(-1.0, 3.0),
        macs=8.0,
        saved=20.0,
        left=(4, 6),
        latency=(chosen.Latency(batch=1, ms=2.0, images_per_second=500.0, ratio=0.8),),
    )
    return chosen.EarlyExit(
        target=chosen.Target(max_loss=0.5),
        held_out=chosen.HeldOut(share=0.5, chosen_on=10, measured_on=10, told="..."),
        policy=policy,
        measured=(plain, ours),
        proved={"images": 10, "same": 10},
        machine={"device": "cpu"},
    )


def test_the_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    chosen.write(record(), tmp_path / "early_exit.json")
    assert chosen.read(tmp_path / "early_exit.json") == record()


def _set(values: dict[str, Any], key: str, value: object) -> None:
    values[key] = value


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: _set(v, "thresholds", [1.5]), r"early_exit\.json: threshold is 1\.5; take 0 to 1"),
        (lambda v: _set(v, "thresholds", [-0.5]), r"threshold is -0\.5; take 0 to 1"),
        (lambda v: _set(v, "thresholds", ["0.5"]), "'0.5' where a number should be"),
        (lambda v: _set(v, "thresholds", [0.5, 0.5]), "do not go with"),
        (lambda v: _set(v, "temperatures", [0, 1]), "temperature is 0"),
        (lambda v: v.pop("measured"), "does not hold what 'metadistiller calibrate' writes"),
        (lambda v: _set(v, "measured", v["measured"][:1]), "has no row"),
        (lambda v: _set(v, "target", {"max_loss": 1, "mean_macs": 2}), "not one target"),
        (lambda v: v["measured"][0].update(left=[1]), "has no row .*of 2 outputs"),
        (lambda v: v["measured"][1].update(accuracy=None), "None where a number should be"),
    ],
)
def test_what_an_edit_broke_is_named(edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "early_exit.json"
    chosen.write(record(), path)
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as caught:
        chosen.read(path)
    assert "early_exit.json" in str(caught.value)


def test_a_record_that_is_not_there_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'metadistiller calibrate .*' writes it"):
        chosen.read(tmp_path / "early_exit.json")


def test_the_record_is_read_without_torch() -> None:
    program = (
        "import sys, metadistiller.outcomes.chosen, metadistiller.outcomes.choosing; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_one_target_in_python_too(run: Path) -> None:
    with pytest.raises(ConfigError, match="give one target"):
        metadistiller.calibrate(run, max_loss=1.0, mean_macs=5e6)
