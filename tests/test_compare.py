"""A comparison trains every pair once, takes up what is unfinished, and its table is arithmetic on the runs."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import cli, compare, ledger
from metadistiller.config import OF_A_ROW, Choice, Config, Teacher
from metadistiller.errors import CheckpointError, ConfigError, LedgerError, PageError, RunError
from metadistiller.lookup import table
from metadistiller.paired import t_quantile
from metadistiller.records import RunFolder

WORDS = [
    *("--data", "digits", "--data.train_per_class", "4", "--model", "resnet10", "--model.width", "4"),
    *("--epochs", "2", "--batch_size", "16", "--eval_batch_size", "400"),
    *("--precision", "float32", "--memory_format", "contiguous", "--threads", "1"),
]


def finish(pair: compare.Pair, final: float, ensemble: float) -> None:
    """A finished run that nobody trained."""
    pair.folder.path.mkdir(parents=True)
    pair.folder.result.write_text(
        json.dumps({"final": final, "ensemble": ensemble, "seconds": 2.0, "peak_memory_mb": 100.0})
    )


@pytest.fixture
def pairs(tiny_config: Config, tmp_path: Path) -> list[compare.Pair]:
    rows = {name: replace(tiny_config, method=Choice(name=name)) for name in ("plain", "dsn")}
    return compare.plan(rows, range(3), tmp_path)


def test_all_methods_of_a_seed_come_before_the_next_seed(pairs: list[compare.Pair]) -> None:
    assert [(pair.label, pair.config.seed) for pair in pairs] == [
        (label, seed) for seed in range(3) for label in ("plain", "dsn")
    ]


def test_the_table_is_mean_deviation_and_paired_difference(pairs: list[compare.Pair], tmp_path: Path) -> None:
    finals = {"plain": [70.0, 72.0, 74.0], "dsn": [71.0, 72.5, 76.5]}
    for pair in pairs:
        finish(pair, finals[pair.label][pair.config.seed], 80.0)
    summary = compare.write_summary(pairs, tmp_path, command="c")
    plain, dsn = summary["rows"]
    assert (plain["method"], plain["n"], plain["final_mean"], plain["final_std"]) == ("plain", 3, 72.0, 2.0)
    assert (plain["delta_to_plain"], plain["ci95"]) == (None, None)
    differences = [1.0, 0.5, 2.5]
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    half = t_quantile(0.975, 2) * deviation / math.sqrt(3)
    assert dsn["delta_to_plain"] == pytest.approx(mean)
    assert dsn["ci95"] == pytest.approx([mean - half, mean + half])
    assert dsn["ensemble_std"] == 0
    assert json.loads((tmp_path / "compare.json").read_text()) == summary
    assert "| dsn | 3 | 73.33 ± 2.84 | 80.00 ± 0.00 | +1.33 (" in (tmp_path / "compare.md").read_text()


def test_unfinished_rows_say_how_many_they_stand_on(pairs: list[compare.Pair], tmp_path: Path) -> None:
    finish(pairs[0], 70.0, 71.0)
    plain, dsn = compare.write_summary(pairs, tmp_path, command="c")["rows"]
    assert (plain["n"], plain["final_std"]) == (1, None)
    assert (dsn["n"], dsn["final_mean"], dsn["delta_to_plain"]) == (0, None, None)
    finish(pairs[1], 71.0, 71.0)
    _, dsn = compare.write_summary(pairs, tmp_path, command="c")["rows"]
    assert (dsn["delta_to_plain"], dsn["ci95"]) == (1.0, None)


def test_a_folder_with_other_settings_is_refused_by_the_setting(tiny_config: Config, tmp_path: Path) -> None:
    from metadistiller.records import RunFolder

    rows = {"plain": replace(tiny_config, method=Choice(name="plain"))}
    (pair,) = compare.plan(rows, [0], tmp_path)
    RunFolder.create(pair.folder.path, pair.config.as_dict())
    assert len(compare.plan(rows, [0], tmp_path)) == 1
    with pytest.raises(ConfigError, match=r"begun with epochs=3, now 9.*--out"):
        compare.plan({"plain": replace(rows["plain"], epochs=9)}, [0], tmp_path)


def test_a_run_that_fails_is_named_after_all_others_are_done(
    pairs: list[compare.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        if (config.method.name, config.seed) == ("dsn", 0):
            raise RunError("the disk is full")
        finish(next(pair for pair in pairs if pair.folder is folder), 50.0, 50.0)

    monkeypatch.setattr(compare, "train_apart", train)
    shown: list[Path] = []
    monkeypatch.setattr(compare.report, "write_comparison", shown.append)
    heard: list[str] = []
    with pytest.raises(RunError, match=r"1 of 6 runs failed: the disk is full"):
        compare.run(pairs, tmp_path, tell=heard.append, command="c")
    assert [row["n"] for row in json.loads((tmp_path / "compare.json").read_text())["rows"]] == [3, 2]
    assert len(heard) == 6
    assert shown == [tmp_path], "what is finished has its page all the same"


@pytest.mark.parametrize("error", [CheckpointError("compare.json is damaged"), OSError("the disk is full")])
def test_a_page_that_cannot_be_written_hides_no_run_that_failed(
    pairs: list[compare.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        if (config.method.name, config.seed) == ("dsn", 0):
            raise RunError("a loss is not finite")
        finish(next(pair for pair in pairs if pair.folder is folder), 50.0, 50.0)

    def write(out: Path) -> None:
        raise error

    monkeypatch.setattr(compare, "train_apart", train)
    monkeypatch.setattr(compare.report, "write_comparison", write)
    with pytest.raises(RunError, match=rf"1 of 6 runs failed: a loss is not finite; .*not written: {error}"):
        compare.run(pairs, tmp_path, tell=lambda line: None, command="c")
    finish(pairs[1], 50.0, 50.0)
    with pytest.raises(RunError, match=rf"^the page of the comparison was not written: {error}$"):
        compare.run(pairs, tmp_path, tell=lambda line: None, command="c")


def test_rows_with_a_teacher_share_one_a_seed_beside_rows_without(tiny_config: Config, tmp_path: Path) -> None:
    teacher = Teacher(name="resnet10", options={"width": 6})
    rows = {"plain": tiny_config} | {
        name: replace(tiny_config, method=Choice(name=name), teacher=teacher) for name in ("kd", "attention_transfer")
    }
    rows["plain"] = replace(tiny_config, method=Choice(name="plain"))
    found = compare.plan(rows, range(2), tmp_path)
    assert [(pair.label, pair.config.seed) for pair in found] == [
        (label, seed) for seed in (0, 1) for label in ("plain", "teacher resnet10", "kd", "attention_transfer")
    ]
    first, student = found[1], found[2]
    assert (first.config.model.name, first.config.method.name, first.config.teacher) == ("resnet10", "plain", None)
    assert student.config.teacher is not None
    assert student.config.teacher.run == str(first.folder)
    for pair in found:
        finish(pair, 90.0 if pair.label.startswith("teacher") else 50.0, 50.0)
    summary = compare.write_summary(found, tmp_path, command="c")
    by_label = {row["method"]: row for row in summary["rows"]}
    assert by_label["teacher resnet10"]["delta_to_plain"] is None
    assert by_label["kd"]["delta_to_plain"] == 0
    assert summary["network"]["width"] == 4


def test_a_row_that_learns_from_something_else_has_a_teacher_that_did(tiny_config: Config, tmp_path: Path) -> None:
    taught = replace(tiny_config, method=Choice(name="kd"), teacher=Teacher(name="resnet10", options={"width": 6}))
    label = "kd:temperature=2:label_smoothing=0.1"
    rows = {"kd": taught, label: replace(taught, label_smoothing=0.1)}
    for order in (rows, dict(reversed(rows.items()))):
        found = {pair.label: pair for pair in compare.plan(order, [0], tmp_path)}
        teachers = [found[name] for name in ("teacher resnet10", "teacher resnet10:label_smoothing=0.1")]
        assert [pair.config.label_smoothing for pair in teachers] == [0.0, 0.1]
        for name, teacher in zip(rows, teachers, strict=True):
            assert found[name].config.teacher is not None
            assert found[name].config.teacher.run == str(teacher.folder)


def test_a_folder_with_another_teacher_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    taught = replace(tiny_config, method=Choice(name="kd"), teacher=Teacher(name="resnet10", options={"width": 6}))
    first = compare.plan({"kd": taught}, [0], tmp_path)[0]
    RunFolder.create(first.folder.path, first.config.as_dict())
    with pytest.raises(ConfigError, match=r"was begun with label_smoothing=0\.0, now 0\.2"):
        compare.plan({"kd": replace(taught, label_smoothing=0.2)}, [0], tmp_path)


def test_a_teacher_on_the_command_line_is_for_the_rows_that_have_one() -> None:
    words = ["digits", "--teacher.model", "resnet10", "--teacher.width", "6"]
    plain, kd = (cli.training._with_method(words, name, lambda parser: None) for name in ("plain", "kd"))
    assert plain.teacher is None
    assert kd.teacher is not None
    assert (kd.teacher.name, kd.teacher.options["width"]) == ("resnet10", 6)


def test_the_command_trains_resumes_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """End to end: two rows of one seed in processes of their own; the second time nothing is trained again."""
    out = tmp_path / "all"
    words = ["compare", *WORDS, "--methods", "plain,dsn:exit_weight=0.5", "--seeds", "1", "--out", str(out)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == str(out)
    assert any("dsn:exit_weight=0.5" in line for line in printed)
    rows = json.loads((out / "compare.json").read_text())["rows"]
    assert [(row["method"], row["n"]) for row in rows] == [("plain", 1), ("dsn:exit_weight=0.5", 1)]
    assert f"report: {out / 'report.html'}" in printed
    assert "dsn:exit_weight=0.5" in (out / "report.html").read_text()
    result = out / "plain" / "s0" / "result.json"
    before = result.stat().st_mtime_ns
    assert cli.main(words) == 0
    assert result.stat().st_mtime_ns == before


def test_a_run_s_own_settings_can_be_compared(tiny_config: Config, tmp_path: Path) -> None:
    """What its config.yaml says of the method gives way to the rows; all else holds."""
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_config.as_dict()))
    for label in ("plain", "dsn:exit_weight=0.5", "metadistiller"):
        config = cli.training._with_method(["--config", str(path)], label, lambda parser: None)
        assert (config.method.name, config.epochs, config.batch_size) == (label.partition(":")[0], 3, 16)
    assert config.method.options["generator_lr"] == 0.001


def test_a_row_may_say_what_it_learns_from() -> None:
    """After what is said of all rows, and of this one alone."""
    words = [*WORDS, "--label_smoothing", "0.05", "--heldout_share=0.25"]
    label = "dsn:label_smoothing=0.2:exit_weight=0.5:augment.mixup=0.3:sampling=balanced"
    row, other = (cli.training._with_method(words, name, lambda parser: None) for name in (label, "dsn"))
    assert row.method.options["exit_weight"] == 0.5
    assert (row.label_smoothing, row.augment.mixup, row.sampling, row.heldout_share) == (0.2, 0.3, "balanced", 0.25)
    assert (other.label_smoothing, other.augment.mixup, other.sampling) == (0.05, 0.0, "uniform")
    with pytest.raises(ConfigError, match="label_smoothing is 2"):
        cli.training._with_method(words, "plain:label_smoothing=2", lambda parser: None)


def test_what_is_of_all_rows_is_refused_in_one() -> None:
    said = (
        r"'batch_size=4' in 'dsn:batch_size=4' is of all rows, so give --batch_size; .* and of augment, label_smoothing"
    )
    with pytest.raises(ConfigError, match=said):
        cli.training._with_method(WORDS, "dsn:batch_size=4", lambda parser: None)


def test_no_option_of_a_method_is_called_as_a_setting_is() -> None:
    settings = {field.name for field in fields(Config)}
    assert set(OF_A_ROW) <= settings
    for member in table("metadistiller.methods").values():
        assert not settings & {field.name for field in fields(member.configure({}))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "plain,dns"], "did you mean 'dsn'"),
        (["--methods", "dsn:exit_wieght=1"], "did you mean '--method.exit_weight'"),
        (["--methods", "dsn:exit_weight"], "is not OPTION=VALUE"),
        (["--methods", ","], "--methods names none"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--evidence", ""], "--evidence is ''; give the folder"),
        (["--evidence="], "--evidence is ''; give the folder"),
        (["--seed", "7"], "compare takes --seeds"),
        (["--method", "dsn"], "say it of a row"),
        (["--method.alpha=0.3"], "say it of a row"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["compare", *words, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# Into a ledger


def test_what_is_finished_is_entered_as_it_is_finished_and_no_teacher(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was finished before; and what fails is not."""
    rows = {"plain": replace(tiny_config, method=Choice(name="plain"))}
    rows["kd"] = replace(tiny_config, method=Choice(name="kd"), teacher=Teacher(name="resnet10"))
    found = compare.plan(rows, range(2), tmp_path)
    done: list[str] = []

    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        if (config.method.name, config.seed) == ("kd", 1):
            raise RunError("the disk is full")
        finish(next(pair for pair in found if pair.folder is folder), 50.0, 50.0)
        done.append(f"trained {folder.path.relative_to(tmp_path)}")

    monkeypatch.setattr(compare, "train_apart", train)
    monkeypatch.setattr(compare.report, "write_comparison", lambda out: None)
    finish(found[0], 50.0, 50.0)
    with pytest.raises(RunError, match=r"^1 of 6 runs failed: the disk is full$"):
        compare.run(
            found,
            tmp_path,
            tell=lambda line: None,
            command="c",
            enter=lambda folder: done.append(f"entered {folder.path.relative_to(tmp_path)}"),
        )
    assert done == [
        "entered plain/s0",
        "trained teacher-resnet10/s0",
        "trained kd/s0",
        "entered kd/s0",
        "trained plain/s1",
        "entered plain/s1",
        "trained teacher-resnet10/s1",
    ]


@pytest.mark.parametrize("error", [LedgerError("it is damaged"), CheckpointError("no events"), OSError("no space")])
def test_a_run_that_is_not_entered_is_told_after_everything_else_is_done(
    pairs: list[compare.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def enter(folder: RunFolder) -> None:
        if folder.path.parent.name == "dsn":
            raise error

    shown: list[Path] = []
    monkeypatch.setattr(compare.report, "write_comparison", shown.append)
    for pair in pairs:
        finish(pair, 50.0, 50.0)
    heard: list[str] = []
    with pytest.raises(RunError, match=rf"^3 of 6 runs were not entered: {error}$"):
        compare.run(pairs, tmp_path, tell=heard.append, command="c", enter=enter)
    assert f"[2/6] dsn seed 0: not entered: {error}" in heard
    assert [row["n"] for row in json.loads((tmp_path / "compare.json").read_text())["rows"]] == [3, 3]
    assert shown == [tmp_path]


def test_a_run_that_is_entered_is_not_said_to_be_left_out_for_want_of_its_page(
    pairs: list[compare.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([PageError("entered, but the page"), PageError("entered, but the page"), LedgerError("damaged")])

    def enter(folder: RunFolder) -> None:
        if folder.path.parent.name == "dsn":
            raise next(errors)

    monkeypatch.setattr(compare.report, "write_comparison", lambda out: None)
    for pair in pairs:
        finish(pair, 50.0, 50.0)
    heard: list[str] = []
    with pytest.raises(RunError) as caught:
        compare.run(pairs, tmp_path, tell=heard.append, command="c", enter=enter)
    assert str(caught.value) == (
        "1 of 6 runs were not entered: damaged; 2 of 6 runs are not on the page: entered, but the page"
    )
    assert [line for line in heard if "enter" in line] == [
        "[2/6] dsn seed 0: entered, but the page",
        "[4/6] dsn seed 1: entered, but the page",
        "[6/6] dsn seed 2: not entered: damaged",
    ]


def test_the_command_enters_its_runs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end, the second time with what was trained the first, and then with a ledger that says otherwise."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", *WORDS, "--methods", "plain,metadistiller:alpha=0.3", "--seeds", "1", "--out", "all"]
    evidence = tmp_path / "evidence"
    assert cli.main(words) == 0
    assert not evidence.exists(), "nothing is entered where nobody asks"
    assert cli.main([*words, "--evidence", "evidence"]) == 0
    assert "evidence: evidence/README.md" in capsys.readouterr().out
    records = ledger.read(evidence / "ledger.json")
    assert [(record.recipe, record.method, record.seed, record.epochs) for record in records] == [
        ("digits", "plain", 0, 2),
        ("digits", "metadistiller", 0, 2),
    ]
    assert records[1].overrides == {
        "batch_size": 16,
        "data.train_per_class": 4,
        "method.alpha": 0.3,
        "model.width": 4,
    }
    assert {record.command for record in records} == {f"metadistiller {' '.join(words)}"}
    page = (evidence / "README.md").read_text()
    assert "metadistiller:alpha=0.3" in page
    before = (evidence / "ledger.json").read_bytes()
    assert cli.main([*words, f"--evidence={evidence}"]) == 0
    assert ((evidence / "ledger.json").read_bytes(), (evidence / "README.md").read_text()) == (before, page)
    whole = json.loads(before)
    whole["runs"][0]["final"] = 1.5
    (evidence / "ledger.json").write_text(json.dumps(whole))
    (tmp_path / "all" / "compare.md").unlink()
    capsys.readouterr()
    assert cli.main([*words, "--evidence", "evidence"]) == 1
    assert "1 of 2 runs were not entered" in capsys.readouterr().err
    assert (tmp_path / "all" / "compare.md").is_file()


def test_a_named_recipe_is_the_one_that_its_runs_are_of() -> None:
    from metadistiller.settings import parse

    for words, recipe in (
        ([], "digits"),
        (["cifar100_wrn16_1_metadistiller"], "cifar100_wrn16_1_metadistiller"),
        (["--data", "cifar100"], "cifar100"),
    ):
        assert parse(words, command="metadistiller compare").recipe == recipe
