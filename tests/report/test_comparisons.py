"""Comparisons on the evidence page and in the README: made-up runs, and what is said of them, worked out by hand."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import ledger, report
from metadistiller.errors import LedgerError
from metadistiller.ledger import Hardware, Record, TargetsAt, TeacherRun
from metadistiller.report import _compared
from metadistiller.report._evidence import render
from metadistiller.report._results import results

from .evidence import HARDWARE, cells, row, section
from .evidence import run as of_the_paper

GPU = Hardware(device="cuda:0 (NVIDIA H200)", torch="2.12.0", threads=8, precision="bfloat16")
FEW = {"data.train_per_class": 10}
COMMAND = (
    "metadistiller compare --data digits --methods plain,dsn,dsn:exit_weight=0.5,metadistiller:alpha=0.3 --out few"
)


def run(method: str, seed: int, final: float, **changed: Any) -> Record:
    """Of a comparison on digits; an hour of plain training, and two of any other."""
    own = {} if method == "metadistiller" else {"method.name": method}
    values: dict[str, Any] = {
        "recipe": "digits",
        "network": "resnet10",
        "method": method,
        "data": "digits",
        "seed": seed,
        "exits": () if method == "plain" else (50.0 + seed, 60.0, 70.0),
        "final": final,
        "ensemble": final if method == "plain" else final + 1,
        "epochs": 200,
        "paper_epochs": 15,
        "teacher": None,
        "command": COMMAND,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "package": "0.1.0",
        "hardware": HARDWARE,
        "seconds": 3600.0 if method == "plain" else 7200.0,
        "peak_memory_mb": 1000.0,
        "date": "2026-11-28T14:03:05Z",
    }
    overrides = {**FEW, **own, **changed.pop("overrides", {})}
    return Record(**{**values, **changed}, overrides=overrides)


def three() -> list[Record]:
    finals = {
        "plain": (77.0, 78.0, 77.8),
        "dsn": (78.0, 78.5, 78.1),
        "metadistiller": (79.0, 79.6, 79.5),
    }
    return [run(method, seed, final) for method, each in finals.items() for seed, final in enumerate(each)]


# The table


def test_a_row_by_hand() -> None:
    page = render(three())
    # 2.0, 1.6, 1.7: mean 1.7667, deviation 0.2082, times 4.30265 / sqrt 3 is 0.5171. 1.0, 1.1, 1.4: 1.1667, 0.2082.
    assert row(page, "Comparisons", "metadistiller", "3") == [
        "51.00 / 60.00 / 70.00",
        "79.37 ± 0.32",
        "80.37 ± 0.32",
        "+1.77 (+1.25 to +2.28; 3)",
        "+1.17 (+0.65 to +1.68; 3)",
        "",
        "2 h 0 min",
        "2.00",
        "1,000",
    ]
    # Without an ensemble, and not compared with itself.
    assert row(page, "Comparisons", "plain", "3")[:4] == ["", "77.60 ± 0.53", "", ""]
    assert row(page, "Comparisons", "plain", "3")[6:] == ["1 h 0 min", "1.00", "1,000"]
    (alone,) = [line for line in cells(section(render(three()[::3]), "Comparisons")) if line[0] == "metadistiller"]
    assert alone[1:7] == ["1", "50.00 / 60.00 / 70.00", "79.00", "80.00", "+2.00 (one seed)", "+1.00 (one seed)"]


def several() -> list[Record]:
    """Settings that differ in one thing each, and what stands beside the paper."""
    wide = {"model.width": 32}
    return [
        *three(),
        run("plain", 0, 50.0, epochs=60),
        run("plain", 0, 51.0, overrides=wide),
        run("metadistiller", 0, 52.0, overrides=wide),
        run("plain", 0, 53.0, overrides={"batch_size": 16}),
        run("dsn", 0, 54.0, hardware=GPU),
        run("dsn", 7, 55.0, overrides={"method.exit_weight": 0.5}),
        run("metadistiller", 0, 56.0, overrides={"method.targets": "labels"}),
        of_the_paper("wrn16_1", "dsn", 0, 57.0, overrides={"data.train_per_class": 50}),
        of_the_paper("wrn16_1", "plain", 0, 58.0, overrides={"data.train_per_class": 50}),
        of_the_paper("wrn16_1", "plain", 0, 59.0),
    ]


HEADINGS = [
    "cifar100 (train_per_class=50), wrn16_1, 200 epochs",
    "digits (train_per_class=10), resnet10 (width=16), 200 epochs",
    "digits (train_per_class=10), resnet10 (width=16), 200 epochs, batch_size=16",
    "digits (train_per_class=10), resnet10 (width=16), 60 epochs",
    "digits (train_per_class=10), resnet10 (width=32), 200 epochs",
]


def test_every_setting_has_a_table_and_every_run_a_line() -> None:
    page = render(several())
    assert re.findall("^### (.*)", section(page, "Comparisons"), flags=re.MULTILINE) == HEADINGS
    listed = section(page, "Runs")
    assert re.findall("^### (.*)", listed, flags=re.MULTILINE) == [f"{heading}: runs" for heading in HEADINGS]
    for record in several():
        lines = [line for line in cells(listed) if line[1] == str(record.seed) and line[3] == f"{record.final:.2f}"]
        beside = listed.count(f"- **{record.recipe}** seed {record.seed}, 200 epochs: final {record.final:.2f}")
        assert len(lines) + beside == 1, "once, and in one of the two lists"
        assert beside == (record.final == 59.0)
    # 3 + 6 + 6 hours of three(), 1 + 1 + 2 + 1 + 2 + 2 + 2 on digits, and 200 epochs of 25, 10 and 10 s.
    assert "Together they took 28 h 30 min; teachers" in page


def test_the_order_of_entry_changes_nothing() -> None:
    records = several()
    page = render(records)
    table = report_of(records)
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert render(records) == page
        assert report_of(records) == table


def test_rows_are_named_by_their_method_and_its_options() -> None:
    page = section(render(several()), "Comparisons").split("### ")[2]
    names = [line[0] for line in cells(page)][2:]
    assert names == ["plain", "dsn", "dsn:exit_weight=0.5", "metadistiller", "metadistiller:targets=labels"]


def test_an_option_that_a_run_is_older_than_does_not_name_it() -> None:
    older = run("metadistiller", 0, 50.0, overrides={"method.new": None})
    assert row(render([older]), "Comparisons", "metadistiller", "1")
    # But where there is the one and the other.
    newer = run("metadistiller", 0, 51.0)
    names = [line[0] for line in cells(section(render([older, newer]), "Comparisons"))][2:]
    assert names == ["metadistiller", "metadistiller:new=null"]


def test_a_taught_row_names_its_teacher() -> None:
    teacher = TeacherRun(network="resnet18", epochs=200, seconds=7200.0, final=90.5, device=None)
    page = render([run("kd", 0, 60.0, exits=(), teacher=teacher, overrides={"teacher.name": "resnet18"}), *three()])
    assert "kd (teacher resnet18, 200 epochs)" in section(page, "Comparisons")
    assert "### digits (train_per_class=10), resnet10 (width=16), 200 epochs\n" in page
    assert [line[-1] for line in cells(section(page, "Runs"))][-1] == "90.50 in 2 h 0 min"
    assert "teacher" not in section(render(three()), "Runs")


def test_time_and_memory_are_of_one_machine_and_the_seeds_of_all() -> None:
    elsewhere = [run("dsn", seed, 70.0, hardware=GPU, seconds=36.0, peak_memory_mb=9.0) for seed in (0, 3)]
    page = render([*three(), *elsewhere])
    found = row(page, "Comparisons", "dsn", "4")
    assert found[-3:] == ["2 h 0 min", "2.00", "1,000"]
    assert "Recipe digits; cpu (x86_64), torch 2.12.0, 2 threads, float32; cuda:0 (NVIDIA H200)" in page
    # In the README too.
    times = {line[0]: line[-1] for line in cells(report_of([*three(), *elsewhere])) if line[1] != "--:"}
    assert times == {"method": "time", "plain": "1 h 0 min", "dsn": "2 h 0 min", "metadistiller": "2 h 0 min"}
    # A row with none on that machine has neither.
    moved = [replace(record, hardware=GPU) if record.method == "dsn" else record for record in three()]
    assert row(render(moved), "Comparisons", "dsn", "3")[-3:] == ["", "", ""]
    assert {line[0]: line[-1] for line in cells(report_of(moved))}["dsn"] == "–"


def test_another_method_than_the_recipe_s_is_compared_with_the_recipe_s_own() -> None:
    """`metadistiller compare cifar100_wrn16_1_metadistiller`."""
    plain = replace(
        of_the_paper("wrn16_1", "plain", 0, 60.0, overrides={"method.name": "plain"}),
        recipe="cifar100_wrn16_1_metadistiller",
    )
    own = of_the_paper("wrn16_1", "metadistiller", 0, 61.5)
    page = render([plain, own])
    assert row(page, "Table 1", "wrn16_1", "metadistiller")[1] == "61.50 (1)"
    assert row(page, "Comparisons", "metadistiller", "1")[3] == "+1.50 (one seed)"
    assert "## Ablations" not in page
    # It is compared with one that stands beside the paper's, and that is listed there alone.
    assert [line[0] for line in cells(section(page, "Runs"))][2:] == ["plain"]
    assert section(page, "Runs").count("- **cifar100_wrn16_1_metadistiller** seed 0") == 1
    assert "Comparisons\n" not in render([own])


def test_the_command_that_made_most_runs_is_the_first_and_of_a_readme_the_one() -> None:
    seldom, often = "a --seeds 1", "b --seeds 3"
    records = [run("plain", 0, 50.0, command=seldom), *(run("dsn", seed, 51.0, command=often) for seed in range(3))]
    (setting,) = _compared.settings(records)
    assert setting.commands == [often, seldom]
    for count, told in (
        (4, "`b --seeds 3` and `a --seeds 1`"),
        (5, "`b --seeds 3`, and 2 others like it in the ledger"),
    ):
        more = [*records, run("dsn", 3, 52.0, command="c --seeds 1")][:count]
        page = results(more, recipe="digits", epochs=200, overrides={**FEW})
        assert f"Command: {told}" in " ".join(page.split())


def test_commands_are_shown_whole_and_many_of_them_counted() -> None:
    long = f"{COMMAND} {'--x y ' * 200}".strip()
    assert f"Command: `{long}`" in render([run("plain", 0, 50.0, command=long)])
    page = render([run("plain", seed, 50.0, command=f"{COMMAND} --seed {seed}") for seed in range(9)])
    assert section(page, "Comparisons").count("Command: ") == 1
    assert "And 8 others like it, in the ledger." in page


def test_no_text_can_break_the_tables() -> None:
    nasty = "a|b`c``d\n# e\r\n<script>*x* [y](z) \\| \x1b[31m~~f~~"
    teacher = TeacherRun(network=nasty, epochs=200, seconds=7200.0, final=90.5, device=None)
    record = run("kd", 0, 60.0, teacher=teacher, overrides={"method.x": nasty, "optim.y": nasty, "data.z": nasty})
    record = replace(record, network=nasty, command=nasty, package=nasty, commit=nasty, data=nasty, recipe=nasty)
    page = render([record])
    assert "\x1b" not in page
    assert "\r" not in page
    assert "<script>" not in re.sub(r"(`+) ?.*?\1", "", page)
    for part in page.split("\n\n"):
        assert len({len(line) for line in cells(part)}) <= 1, "a row has more cells than its table"
    assert len(re.findall("^#", page, flags=re.MULTILINE)) == len(re.findall("^#", render([]), flags=re.MULTILINE)) + 3


# Soft targets over training


def curve(epochs: int, by: float = 0.0, **changed: Any) -> tuple[TargetsAt, ...]:
    return tuple(
        TargetsAt(
            epoch=epoch,
            generator_steps=10 * (epoch + 1),
            accuracy=(epoch + by, 20.0, 30.0),
            entropy=(1.0 + by, 2.0, 3.0),
            confidence=(0.5, 0.25, 0.125),
            **{
                "heldout_loss": 0.5 + by,
                "target_gain": (by, 0.0, -0.25),
                "label_gain": None,
                "target_alignment": (by, 0.0, -0.5),
                "label_alignment": None,
                **changed,
            },
        )
        for epoch in epochs_of(epochs)
    )


def epochs_of(epochs: int) -> list[int]:
    return sorted({round(share * (epochs - 1) / 11) for share in range(12)})


def test_the_curve_is_a_mean_over_seeds_of_four_epochs() -> None:
    records = [run("metadistiller", seed, 50.0, targets=curve(200, by=seed)) for seed in (0, 1)]
    found = section(render([*records, run("plain", 0, 50.0)]), "Comparisons")
    lines = [line for line in cells(found) if len(line) == 12][2:]
    assert [line[2] for line in lines] == ["1", "55", "91", "200"]
    assert lines[1] == [
        "metadistiller",
        "2",
        "55",
        "550",
        "54.5 / 20.0 / 30.0",
        "1.50 / 2.00 / 3.00",
        "0.50 / 0.25 / 0.12",
        "1.0000",
        "+0.5000 / +0.0000 / -0.2500",
        "–",
        "+0.500 / +0.000 / -0.500",
        "–",
    ]
    # What one of the seeds has not is no mean.
    half = [records[0], replace(records[1], targets=curve(200, heldout_loss=None))]
    assert [line[7] for line in cells(section(render(half), "Comparisons")) if len(line) == 12][2:] == ["–"] * 4
    # Nor is one that was entered before soft targets were; the number of those that are known says so.
    before = [records[0], replace(records[1], targets=None)]
    few = [line for line in cells(section(render(before), "Comparisons")) if len(line) == 12][2:]
    assert ([line[1] for line in few], few[1][4]) == (["1"] * 4, "54.0 / 20.0 / 30.0")


def test_rows_without_targets_have_no_curve() -> None:
    assert "Soft targets over training" not in render(three())
    short = section(render([run("metadistiller", 0, 50.0, epochs=1, targets=curve(1))]), "Comparisons")
    assert [line[2] for line in cells(short) if len(line) == 12][2:] == ["1"]


# In the README


def report_of(records: list[Record], **changed: Any) -> str:
    return results(records, **{"recipe": "digits", "epochs": 200, "overrides": FEW, **changed})


def test_a_setting_is_a_short_table_by_hand() -> None:
    table, made = report_of(several()).split("\n\n")
    lines = {line[0]: line[1:] for line in cells(table)}
    assert lines["method"] == [
        *("n", "final %", "ensemble %", "delta to plain (95 % CI)", "delta to dsn (95 % CI)", "time"),
    ]
    assert lines["metadistiller"] == [
        *("3", "79.37 ± 0.32", "80.37 ± 0.32", "+1.77 (+1.25 to +2.28)", "+1.17 (+0.65 to +1.68)", "2 h 0 min"),
    ]
    # -1, -0.5, -0.3: mean -0.6, deviation 0.3606, half 0.8957.
    assert lines["plain"] == ["3", "77.60 ± 0.53", "–", "–", "-0.60 (-1.50 to +0.30)", "1 h 0 min"]
    assert lines["metadistiller:targets=labels"][3] == "-21.00 (one seed)"
    assert made.replace("\n", " ") == (
        "cpu (x86_64), torch 2.12.0, 2 threads, float32; cuda:0 (NVIDIA H200), torch 2.12.0, 8 threads, bfloat16; "
        f"2026-11-28. Command: `{COMMAND}`"
    )
    quick = [replace(record, seconds=22.4) for record in three()]
    heading, _, *times = [line[-1] for line in cells(report_of(quick))]
    assert (heading, times) == ("seconds", ["22"] * 3)


@pytest.mark.parametrize("changed", [{"recipe": "cifar100"}, {"epochs": 60}, {"overrides": {}}])
def test_a_setting_without_runs_is_an_error(changed: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="has no comparison of"):
        report_of(three(), **changed)


def test_a_setting_is_read_out_of_a_folder(tmp_path: Path) -> None:
    for record in three():
        ledger.append(tmp_path / "ledger.json", record)
    assert report.results(tmp_path, recipe="digits", epochs=200, overrides=FEW) == report_of(three())


def test_what_stands_beside_the_paper_is_no_comparison() -> None:
    assert [_compared.compared(record) for record in several()] == [True] * (len(several()) - 1) + [False]
