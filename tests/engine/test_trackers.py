"""A tracker is told everything, changes nothing, and ends nothing."""

import csv
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metadistiller import assemble, cli
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine import trackers
from metadistiller.errors import ConfigError, Paused, UnknownName
from metadistiller.records import RunFolder

Told = dict[str, list[tuple[int, float]]]


class Stub(ModuleType):
    """A package with the three functions, which keeps what it is told."""

    def __init__(self, name: str, *, fails: str = "") -> None:
        super().__init__(name)
        self.begun: list[dict[str, Any]] = []
        self.told: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.fails = fails

    def _may_fail(self, where: str) -> None:
        print(f"{where} says something on standard output")
        if where == self.fails:
            raise RuntimeError("no\n  network")

    def init(self, **given: Any) -> None:
        self._may_fail("init")
        self.begun.append(given)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._may_fail("log")
        self.told.append((step, dict(values)))

    def finish(self) -> None:
        self._may_fail("finish")
        self.finished += 1

    def scalars(self) -> Told:
        told: Told = {}
        for step, values in self.told:
            for name, value in values.items():
                told.setdefault(name, []).append((step, value))
        return told


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stub]:
    def install(name: str = "wandb", **given: Any) -> Stub:
        package = Stub(name, **given)
        monkeypatch.setitem(sys.modules, name, package)
        monkeypatch.setattr(trackers, "find_spec", lambda asked: ModuleSpec(asked, None, origin="somewhere"))
        return package

    return install


def in_tensorboard(folder: Path) -> tuple[Told, dict[str, Any]]:
    """The scalars that TensorBoard shows, and the hyper-parameters."""
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if not tag.startswith("_")
    }
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    return scalars, {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}


def expected(folder: Path) -> Told:
    """What results.csv holds, and the images a second."""
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    told: Told = {}
    for row in rows:
        for name, value in row.items():
            if name != "epoch" and value:
                told.setdefault(name, []).append((int(row["epoch"]) + 1, float(value)))
    rates = {
        event["epoch"]: event["images_per_second"]
        for event in RunFolder(folder).read_events()
        if event["event"] == "epoch"
    }
    told["images_per_second"] = [(epoch + 1, rate) for epoch, rate in rates.items()]
    return told


def split(told: Told) -> tuple[Told, dict[str, float]]:
    """What was told epoch by epoch, and the result."""
    result = {name: values[-1][1] for name, values in told.items() if name.startswith("result/")}
    return {name: values for name, values in told.items() if name not in result}, result


def check(told: Told, folder: Path, result: Mapping[str, Any]) -> None:
    each, final = split(told)
    wanted = expected(folder)
    assert each.keys() == wanted.keys()
    for name, values in wanted.items():
        assert [step for step, _ in each[name]] == [step for step, _ in values], name
        assert [value for _, value in each[name]] == pytest.approx([value for _, value in values], rel=1e-6), name
    assert final["result/final"] == pytest.approx(result["final"])
    assert final["result/exit_1"] == pytest.approx(result["exits"][0])


def told_in_halves(config: Config, out: Path, first: list[str], second: list[str]) -> assemble.Trained:
    asked = iter(range(100))
    with pytest.raises(Paused):
        # Before the second epoch's last step.
        assemble.train(config, out, quiet=True, track=first, stop=lambda: next(asked) >= 4)
    return assemble.resume(out, quiet=True, track=second)


def test_trackers_change_no_bit(tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]) -> None:
    stub()
    stub("trackio", fails="log")
    runs = [
        assemble.train(tiny_config, tmp_path / str(len(names)), quiet=True, track=names).folder
        for names in ([], ["tensorboard", "trackio", "wandb"])
    ]
    for name in ("model.safetensors", "results.csv", "config.yaml", "evaluation.json", "soft_targets.json"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


def test_nothing_is_tracked_unasked(tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]) -> None:
    package = stub()
    folder = assemble.train(replace(tiny_config, epochs=1), tmp_path / "run", quiet=True).folder
    assert not (folder / "tensorboard").exists()
    assert not package.begun


def test_tensorboard_shows_every_column(tiny_config: Config, tmp_path: Path) -> None:
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, track=["tensorboard"])
    told, settings = in_tensorboard(trained.folder)
    check(told, trained.folder, trained.result)
    assert settings["method.name"] == "metadistiller"
    assert settings["optim.lr"] == pytest.approx(0.05)
    assert settings["epochs"] == 3


@pytest.mark.parametrize("first", [["tensorboard"], []], ids=["both sittings", "the second alone"])
def test_a_resumed_run_stands_in_tensorboard_once(first: list[str], tiny_config: Config, tmp_path: Path) -> None:
    trained = told_in_halves(tiny_config, tmp_path / "run", first, ["tensorboard"])
    told, _ = in_tensorboard(trained.folder)
    check(told, trained.folder, trained.result)


def test_tensorboard_forgets_epochs_that_are_done_again(tiny_config: Config, tmp_path: Path) -> None:
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, track=["tensorboard"])
    (trained.folder / "result.json").unlink()
    newest = max((trained.folder / "checkpoints").iterdir())
    (newest / "manifest.json").write_text("{")
    again = assemble.resume(trained.folder, quiet=True, track=["tensorboard"])
    told, _ = in_tensorboard(again.folder)
    check(told, again.folder, again.result)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_the_adapter_tells_every_column(
    name: str, tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    package = stub(name)
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, track=[name])
    check(package.scalars(), trained.folder, trained.result)
    (given,) = package.begun
    assert given["config"]["method.meta_every_epochs"] == 2
    assert package.finished == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("first", [["wandb"], []], ids=["both sittings", "the second alone"])
def test_a_resumed_run_is_the_same_run(
    first: list[str], tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]
) -> None:
    package = stub()
    trained = told_in_halves(tiny_config, tmp_path / "run", first, ["wandb"])
    check(package.scalars(), trained.folder, trained.result)
    assert len(package.begun) == package.finished == len(first) + 1
    assert {given["resume"] for given in package.begun} == {"allow"}
    assert len({given["id"] for given in package.begun}) == 1


def test_two_runs_of_one_name_are_two_runs(tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]) -> None:
    package = stub("trackio")
    for place in ("a", "b"):
        assemble.train(replace(tiny_config, epochs=1), tmp_path / place / "run", quiet=True, track=["trackio"])
    names = {given["name"] for given in package.begun}
    assert len(names) == 2
    assert all(name.startswith("run-") for name in names)


def test_a_teacher_is_a_run_of_its_own(tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]) -> None:
    package = stub()
    teacher = Teacher(name="resnet10", options={"width": 4})
    config = replace(tiny_config, epochs=1, method=Choice(name="kd", options={}), teacher=teacher)
    assemble.train(config, tmp_path / "run", quiet=True, track=["wandb"])
    assert [given["name"] for given in package.begun] == ["teacher", "run"]
    assert len({given["id"] for given in package.begun}) == 2


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_ends_nothing(
    where: str, tiny_config: Config, tmp_path: Path, stub: Callable[..., Stub]
) -> None:
    stub(fails=where)
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, track=["wandb", "tensorboard"])
    log = (trained.folder / "log.txt").read_text().splitlines()
    assert [line for line in log if "wandb" in line] == [
        "wandb gets nothing more, training goes on: RuntimeError: no network"
    ]
    check(in_tensorboard(trained.folder)[0], trained.folder, trained.result)


def test_a_full_disk_ends_nothing(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: trackers.TensorBoard, values: Mapping[str, float], epochs_done: int) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"1")

    monkeypatch.setattr(trackers.TensorBoard, "log", full)
    trained = assemble.train(tiny_config, tmp_path / "run", quiet=True, track=["tensorboard"])
    log = (trained.folder / "log.txt").read_text()
    assert log.count("No space left on device") == 1
    assert trained.result["epochs"] == 3


def test_what_is_not_there_is_said_before_anything_begins(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(UnknownName, match="did you mean 'tensorboard'"):
        assemble.train(tiny_config, out, track=["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None) if name == "wandb" else None)
    for name, cure in (("trackio", r"pip install 'metadistiller\[track\]'"), ("wandb", "pip install wandb")):
        with pytest.raises(ConfigError, match=f"needs the package {name}, which is not installed: {cure}"):
            assemble.train(tiny_config, out, track=[name])
    assert cli.main(["train", "--out", str(out), "--track", "wandb"]) == 2
    assert cli.main(["resume", str(out), "--track", "wandb"]) == 2
    assert capsys.readouterr().err.count("pip install wandb") == 2
    assert not out.exists()


def test_the_option_takes_several_in_both_ways(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def train(*given: Any, track: tuple[str, ...], **more: Any) -> None:
        asked.append(track)
        raise Paused("enough")

    monkeypatch.setattr(assemble, "train", train)
    monkeypatch.setattr(assemble, "resume", train)
    for words in (
        ["train", "--track", "tensorboard,trackio", "--track=wandb"],
        ["resume", "run", "--track", "tensorboard", "--track", "trackio,wandb"],
    ):
        assert cli.main(words) == 3
    assert cli.main(["train"]) == 3
    assert asked == [("tensorboard", "trackio", "wandb")] * 2 + [()]


def test_trackio_itself_keeps_a_resumed_run_as_one(tmp_path: Path) -> None:
    """The package, in a folder of its own and without a network."""
    pytest.importorskip("trackio")
    common = ["--data.train_per_class", "4", "--model", "resnet10", "--model.width", "4", "--method", "plain"]
    train = [
        "train",
        *common,
        "--batch_size",
        "10",
        "--epochs",
        "12",
        "--out",
        "run",
        "--track",
        "trackio",
        "--quiet",
        "--auto-resume",
    ]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    codes = []
    for more in (["--budget", "1s"], []):
        done = subprocess.run(
            [sys.executable, "-m", "metadistiller", *train, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        codes.append(done.returncode)
    assert codes == [3, 0], done.stderr
    assert done.stdout == "run\n"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "gets nothing more" not in log
    with closing(sqlite3.connect(tmp_path / "trackio" / "metadistiller.db")) as file:
        rows = file.execute("select run_name, step from metrics order by step").fetchall()
    assert {name for name, _ in rows} == {rows[0][0]}
    assert rows[0][0].startswith("run-")
    # The last step has the last epoch and the result.
    assert [step for _, step in rows] == [*range(1, 13), 12]
