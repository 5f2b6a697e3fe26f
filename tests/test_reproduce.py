"""A plan has every run of a table once, in a sensible order; what is finished is entered, what is cut short goes on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import ledger, paper, reproduce
from metadistiller.budget import Budget
from metadistiller.cli import main
from metadistiller.config import Config, Teacher
from metadistiller.errors import CheckpointError, ConfigError, LedgerError, Paused, RunError, UnknownName
from metadistiller.recipes import recipe
from metadistiller.records import RunFolder
from metadistiller.settings import parse

NO_LIMIT = Budget(None)


def read(name: str, words: Sequence[str]) -> Config:
    return parse([name, *words], command="metadistiller reproduce TARGET").config


def plan(target: str, out: Path, seeds: int = 1, words: Sequence[str] = (), **chosen: Sequence[str]) -> list[str]:
    runs = reproduce.plan(target, read, seeds=seeds, words=words, out=out, **chosen)
    return [str(run.folder.path.relative_to(out)) for run in runs]


# The plan


@pytest.mark.parametrize("table", paper.TABLES)
def test_a_plan_has_every_place_of_its_table_and_each_run_once(table: str, tmp_path: Path) -> None:
    runs = reproduce.plan(table, read, seeds=2, words=["--epochs=3"], out=tmp_path)
    names = [(run.recipe, run.config.seed) for run in runs]
    assert len(names) == len(set(names))
    wanted = {
        (paper.recipe_name(table, row, method), seed)
        for row in paper.TABLES[table].rows
        for method in paper.TABLES[table].methods
        for seed in (0, 1)
    }
    teacher = {("cifar100_resnet152_plain", 0)} if table == "table3" else set()
    assert set(names) == wanted | teacher
    assert all(run.config.epochs == 3 for run in runs)


def test_the_cheapest_network_comes_first_and_seeds_are_finished_one_by_one(tmp_path: Path) -> None:
    found = plan("table1", tmp_path, seeds=2, rows=["resnet18", "wrn16_1"], methods=["plain", "metadistiller"])
    assert found == [
        f"cifar100_{row}_{method}/e200/s{seed}"
        for row in ("wrn16_1", "resnet18")
        for seed in (0, 1)
        for method in ("plain", "metadistiller")
    ]


def test_a_teacher_is_trained_once_and_before_its_students(tmp_path: Path) -> None:
    found = plan("table3", tmp_path, seeds=2, rows=["resnet18"], methods=["kd", "fitnet", "dml"])
    assert [path.split("/")[0].removeprefix("cifar100_") for path in found] == [
        *("resnet152_plain", "resnet18_kd", "resnet18_fitnet", "resnet18_dml"),
        *("resnet18_kd", "resnet18_fitnet", "resnet18_dml"),
    ]
    runs = reproduce.plan("table3", read, seeds=2, words=[], out=tmp_path, rows=["resnet18"], methods=["kd", "dml"])
    teacher, one, peer, two, _ = runs
    for student in (one, two):
        assert student.config.teacher is not None
        assert student.config.teacher.run == str(teacher.folder)
        assert student.command.endswith(f"--teacher {teacher.folder}")
    assert peer.config.teacher is not None
    assert peer.config.teacher.run is None


def test_tables_share_their_runs(tmp_path: Path) -> None:
    one = set(plan("table1", tmp_path, rows=["resnet18"]))
    assert set(plan("table4", tmp_path, rows=["resnet18"])) < one


def test_an_ablation_has_a_folder_of_its_own_for_each_variant(tmp_path: Path) -> None:
    found = plan("ablation", tmp_path, rows=["wrn16_1"])
    assert len(found) == 4 + len(paper.ABLATIONS)
    assert "cifar100_wrn16_1_metadistiller/targets=labels/e200/s0" in found
    runs = reproduce.plan("ablation", read, seeds=1, words=[], out=tmp_path, rows=["wrn16_1"])
    variants = [run.config.method.options for run in runs[4:]]
    for options, changed in zip(variants, paper.ABLATIONS.values(), strict=True):
        assert changed.items() <= options.items()
    assert all("--method.targets=labels" in run.command for run in runs if "labels" in run.label)


def test_the_cost_of_a_row_counts_every_method_that_the_paper_has_for_it(tmp_path: Path) -> None:
    everything = plan("cost", tmp_path)
    assert [path.split("_")[-1].split("/")[0] for path in everything].count("plain") == 2
    assert len(everything) == len(reproduce.COST_METHODS) + 1
    assert len(plan("cost", tmp_path, rows=["wrn16_1"])) == 4


def test_milestones_scale_with_the_epochs(tmp_path: Path) -> None:
    (run,) = reproduce.plan(
        "table1", read, seeds=1, words=["--epochs=10"], out=tmp_path, rows=["wrn16_1"], methods=["plain"]
    )
    assert run.config.optim.milestones == (0.4, 0.7)
    assert run.command == "metadistiller train cifar100_wrn16_1_plain --epochs=10 --seed=0"


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"rows": ["wrn16-1"]}, "did you mean 'wrn16_1'"),
        ({"methods": ["metadistiler"]}, "did you mean 'metadistiller'"),
        ({"methods": ["kd"]}, "unknown method of table1 'kd'"),
    ],
)
def test_what_is_not_in_a_table_is_named(chosen: dict[str, list[str]], says: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=says):
        plan("table1", tmp_path, **chosen)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    (run,) = reproduce.plan("table1", read, seeds=1, words=[], out=tmp_path, rows=["wrn16_1"], methods=["plain"])
    RunFolder.create(run.folder.path, run.config.as_dict())
    plan("table1", tmp_path, rows=["wrn16_1"])
    with pytest.raises(ConfigError, match="was begun with batch_size=128, now 64"):
        plan("table1", tmp_path, rows=["wrn16_1"], words=["--batch_size=64"])


# Doing it


@pytest.fixture
def runs(tiny_config: Config, tmp_path: Path) -> list[reproduce.Run]:
    """Two short runs that stand for cells of a table."""
    found = []
    for seed in (0, 1):
        config = reproduce.resolve(reproduce.written_out(replace(tiny_config, seed=seed, epochs=1)))
        folder = RunFolder(tmp_path / "runs" / f"s{seed}")
        found.append(
            reproduce.Run(recipe="digits", label="digits", config=config, folder=folder, command=f"c --seed={seed}")
        )
    return found


def test_what_is_finished_is_entered_once(runs: list[reproduce.Run], tmp_path: Path) -> None:
    evidence, told = tmp_path / "evidence", list[str]()
    for _ in range(2):
        assert reproduce.reproduce(runs, evidence, budget=NO_LIMIT, tell=told.append)
    records = ledger.read(evidence / "ledger.json")
    assert [(record.seed, record.epochs, record.paper_epochs) for record in records] == [
        (0, 1, recipe("digits").epochs),
        (1, 1, recipe("digits").epochs),
    ]
    assert [record.command for record in records] == ["c --seed=0", "c --seed=1"]
    assert (evidence / "README.md").is_file()
    assert len(told) == 4
    result = json.loads(runs[0].folder.result.read_text())
    assert told[0].startswith(f"[1/2] digits seed 0: final {result['final']:.2f}")


def test_a_budget_stops_a_run_and_the_same_call_finishes_it(runs: list[reproduce.Run], tmp_path: Path) -> None:
    long = replace(runs[0], config=replace(runs[0].config, epochs=12, evaluate_every=12))
    whole = replace(long, folder=RunFolder(tmp_path / "whole"))
    assert reproduce.reproduce([whole], tmp_path / "other", budget=NO_LIMIT, tell=print)
    evidence, told = tmp_path / "evidence", list[str]()
    assert not reproduce.reproduce([long, runs[1]], evidence, budget=Budget(0.1), tell=told.append)
    assert "stopped in time" in told[-1]
    assert not (evidence / "ledger.json").exists()
    assert not runs[1].folder.path.exists()
    assert reproduce.reproduce([long, runs[1]], evidence, budget=NO_LIMIT, tell=told.append)
    assert long.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
    assert long.folder.results.read_bytes() == whole.folder.results.read_bytes()
    assert len(ledger.read(evidence / "ledger.json")) == 2


def test_no_run_is_begun_without_time(runs: list[reproduce.Run], tmp_path: Path) -> None:
    told: list[str] = []
    assert not reproduce.reproduce(runs, tmp_path / "evidence", budget=Budget(0), tell=told.append)
    assert "not begun, the budget is used up" in told[0]
    assert not runs[0].folder.path.exists()


def test_a_run_that_fails_is_named_and_the_others_are_done(
    runs: list[reproduce.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reproduce.train_apart

    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        if config.seed == 0:
            raise RunError("it broke")
        whole(folder, config, **limits)

    monkeypatch.setattr(reproduce, "train_apart", train)
    told: list[str] = []
    with pytest.raises(RunError, match=r"1 of 2 runs failed"):
        reproduce.reproduce(runs, tmp_path / "evidence", budget=NO_LIMIT, tell=told.append)
    assert told[0] == "[1/2] digits seed 0: failed: it broke"
    assert [record.seed for record in ledger.read(tmp_path / "evidence" / "ledger.json")] == [1]


def test_a_pause_is_no_failure(runs: list[reproduce.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def paused(folder: RunFolder, config: Config, **limits: Any) -> None:
        raise Paused("stopped in time")

    monkeypatch.setattr(reproduce, "train_apart", paused)
    assert not reproduce.reproduce(runs, tmp_path / "evidence", budget=NO_LIMIT, tell=print)


def test_a_run_that_the_ledger_refuses_does_not_stop_the_others(runs: list[reproduce.Run], tmp_path: Path) -> None:
    """The same run with another result: what is there stays, and what comes after is trained and entered."""
    evidence = tmp_path / "evidence"
    assert reproduce.reproduce(runs[:1], evidence, budget=NO_LIMIT, tell=print)
    page = json.loads((evidence / "ledger.json").read_text())
    page["runs"][0]["final"] += 1.0
    (evidence / "ledger.json").write_text(json.dumps(page))
    with pytest.raises(RunError, match="1 of 2 runs"):
        reproduce.reproduce(runs, evidence, budget=NO_LIMIT, tell=print)
    assert [record.seed for record in ledger.read(evidence / "ledger.json")] == [0, 1]


@pytest.mark.parametrize("error", [LedgerError("damaged"), CheckpointError("no events"), OSError("no space")])
def test_a_run_that_is_not_entered_ends_no_long_reproduction(
    runs: list[reproduce.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = reproduce.enter

    def enter(folder: RunFolder, *args: Any, **more: Any) -> None:
        if folder.path.name == "s0":
            raise error
        whole(folder, *args, **more)

    monkeypatch.setattr(reproduce, "enter", enter)
    told: list[str] = []
    with pytest.raises(RunError, match=r"^1 of 2 runs failed, were not entered or are not on the page, see above$"):
        reproduce.reproduce(runs, tmp_path / "evidence", budget=NO_LIMIT, tell=told.append)
    assert told[0] == f"[1/2] digits seed 0: not entered: {error}"
    assert [record.seed for record in ledger.read(tmp_path / "evidence" / "ledger.json")] == [1]


def test_what_is_entered_without_its_page_is_said_to_be(runs: list[reproduce.Run], tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    (evidence / "README.md").mkdir(parents=True)
    told: list[str] = []
    with pytest.raises(RunError, match=r"^2 of 2 runs"):
        reproduce.reproduce(runs, evidence, budget=NO_LIMIT, tell=told.append)
    assert [record.seed for record in ledger.read(evidence / "ledger.json")] == [0, 1]
    for place, line in enumerate(told):
        assert line.startswith(f"[{place + 1}/2] digits seed {place}: entered, but the page was not written: ")
        assert line.endswith(f"'metadistiller report {evidence}' writes it")


def test_what_is_said_of_all_networks_is_said_of_the_teacher_too(tmp_path: Path) -> None:
    words = ["--model.width=4", "--data.train_per_class=3"]
    teacher, student = reproduce.plan(
        "table3", read, seeds=1, words=words, out=tmp_path, rows=["resnet18"], methods=["kd"]
    )
    assert student.config.teacher is not None
    assert student.config.teacher.options == teacher.config.model.options
    assert teacher.config.model.options["width"] == 4
    assert teacher.config.data.options["train_per_class"] == 3


@pytest.mark.parametrize("word", ["--teacher.model=resnet10", "--teacher=runs/x"])
def test_the_teacher_of_a_table_is_the_paper_s(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the teacher of the paper's tables is resnet152"):
        reproduce.plan("table3", read, seeds=1, words=[word], out=tmp_path)


def test_a_student_that_makes_no_sense_is_found_before_its_teacher_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.hint_epochs is 0\.1; of 1 epochs"):
        reproduce.plan("table3", read, seeds=1, words=["--epochs=1"], out=tmp_path, methods=["fitnet"])


def test_a_run_begun_elsewhere_is_the_same_run(tmp_path: Path) -> None:
    """Device, precision, layout and threads are those of the machine where it began, and it goes on with them."""
    (run,) = reproduce.plan("table1", read, seeds=1, words=[], out=tmp_path, rows=["wrn16_1"], methods=["plain"])
    there = run.config.as_dict() | {"device": "cuda", "threads": 64, "precision": "float32"}
    del there["label_smoothing"]
    RunFolder.create(run.folder.path, there)
    plan("table1", tmp_path, rows=["wrn16_1"])
    with pytest.raises(ConfigError, match=r"was begun with data\.split_seed=0, now 1"):
        plan("table1", tmp_path, rows=["wrn16_1"], words=["--data.split_seed=1"])


# The command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table9"], "table9"),
        (["table1", "--rows", "wrn16-1"], "did you mean 'wrn16_1'"),
        (["table1", "--row", "wrn16_1"], "did you mean '--rows'"),
        (["table1", "--epocs", "3"], "did you mean '--epochs'"),
        (["table1", "--seeds", "0"], "--seeds is 0"),
        (["table1", "--evidence", ""], "--evidence is ''; give the folder"),
        (["table1", "--seed", "3"], "reproduce takes --seeds N"),
        (["table1", "--budget", "soon"], "--budget is 'soon'"),
        ([], "target"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "x"
    assert main(["reproduce", *words, *(["--out", str(out)] if words else [])]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_teachers_are_of_the_recipes() -> None:
    assert recipe("cifar100_resnet18_kd").teacher == Teacher(name="resnet152")
