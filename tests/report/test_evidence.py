"""The evidence page: made-up runs, and what must stand beside the paper's numbers, worked out by hand."""

import fcntl
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import ledger, paper, report
from metadistiller.errors import LedgerError
from metadistiller.ledger import Hardware, Record, TeacherRun
from metadistiller.recipes.paper import NAMES
from metadistiller.report._evidence import render
from metadistiller.report._markdown import code, table, text

HARDWARE = Hardware(device="cpu (x86_64)", torch="2.12.0", threads=2, precision="float32")


def run(network: str, method: str, seed: int, final: float, **changed: Any) -> Record:
    """A full run; the ensemble is one point above the final output, an epoch of plain training takes 10 s."""
    alone = method in ("plain", "kd", "fitnet", "attention_transfer", "dml")
    values: dict[str, Any] = {
        "recipe": paper.run_name(network, method),
        "network": network,
        "method": method,
        "data": paper.NETWORKS[network].data,
        "seed": seed,
        "exits": () if alone else (50.0, 60.0),
        "final": final,
        "ensemble": final if alone else final + 1,
        "epochs": 200,
        "paper_epochs": 200,
        "teacher": None,
        "overrides": {},
        "command": f"metadistiller train {paper.run_name(network, method)} --seed {seed}",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "package": "0.1.0",
        "hardware": HARDWARE,
        "peak_memory_mb": 1000.0 if method == "plain" else 1250.0,
        "date": "2026-11-22T14:03:05Z",
    } | changed
    values.setdefault("seconds", values["epochs"] * (10.0 if method == "plain" else 25.0))
    return Record(**values)


def section(page: str, title: str) -> str:
    (found,) = (part for part in re.split(r"^(?=##? )", page, flags=re.MULTILINE) if part.startswith(f"## {title}"))
    return found


def cells(lines: str) -> Iterator[list[str]]:
    """The rows of every Markdown table, cell by cell."""
    for line in lines.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row(page: str, title: str, *begin: str) -> list[str]:
    """What stands behind these first cells."""
    (found,) = (line for line in cells(section(page, title)) if line[: len(begin)] == list(begin))
    return found[len(begin) :]


# Nothing has been run


def test_an_empty_ledger_gives_the_papers_numbers_and_empty_cells() -> None:
    page = render([])
    assert "Runs: 0, of which 0 exactly as their recipe says. Of the 57 recipes behind the tables, 0" in page
    assert row(page, "Table 1", "resnet18", "self_distillation") == ["78.25 (78.64)", "", "79.32 (79.67)", ""]
    assert row(page, "Table 1", "resnet18", "dsn") == ["", "", "", ""]
    assert row(page, "Table 2", "torchvision/resnet50", "plain") == ["73.56", "", "", ""]
    assert row(page, "Table 3", "resnet50", "attention_transfer") == ["79.47", "", "", ""]
    assert row(page, "Table 4", "resnet101", "dsn") == ["80.54", "", "81.29", ""]
    assert section(page, "Runs").endswith("None yet.\n")
    assert "## Ablations" not in page
    assert "shufflenet_v2_x0_5" not in section(page, "Differences")


def test_every_number_of_the_paper_stands_in_its_place() -> None:
    page = render([])
    for name, found in paper.TABLES.items():
        for network in found.rows:
            for method in found.methods:
                reported = row(page, f"Table {name[-1]}", network, method)[::2]
                values = {cell.output: f"{cell.value:.2f}" for cell in paper.cells(name, network, method)}
                assert [cell.partition(" ")[0] for cell in reported] == [
                    values.get("final", ""),
                    values.get("ensemble", ""),
                ]


def test_the_papers_differences_are_those_of_its_tables() -> None:
    page = render([])
    assert row(page, "Differences", "resnet18", "metadistiller − plain") == ["+1.74", "", "", ""]
    assert row(page, "Differences", "resnet18", "metadistiller − dsn") == ["+1.04", "", "+0.87", ""]
    assert row(page, "Differences", "resnet50", "kd − plain") == ["+1.61", "", "", ""]
    assert row(page, "Differences", "torchvision/resnet50", "metadistiller − plain") == ["+2.55", "", "", ""]
    assert row(page, "Differences", "wrn16_1", "metadistiller − self_distillation") == ["+0.88", "", "+0.64", ""]
    # What neither side has is not a line.
    assert ["wrn16_1", "dsn − plain"] not in [line[:2] for line in cells(section(page, "Differences"))]


# Full runs

PLAIN, SD, MD = (77.0, 78.0, 77.8), (78.1, 78.3, 78.9), (79.0, 79.6, 79.5)


@pytest.fixture
def full() -> list[Record]:
    """Three seeds of three methods, exactly as the recipes say."""
    return [
        run("resnet18", method, seed, final)
        for method, finals in (("plain", PLAIN), ("self_distillation", SD), ("metadistiller", MD))
        for seed, final in enumerate(finals)
    ]


def test_three_seeds_have_mean_deviation_and_number(full: list[Record]) -> None:
    page = render(full)
    # (77 + 78 + 77.8) / 3 = 77.6; squares 0.36 + 0.16 + 0.04 = 0.56, halved and rooted 0.529.
    assert row(page, "Table 1", "resnet18", "plain") == ["77.31 (77.09)", "77.60 ± 0.53 (3)", "", ""]
    # 238.1 / 3 = 79.367; squares 0.1344 + 0.0544 + 0.0178 = 0.2067, halved and rooted 0.321.
    md = ["79.05", "79.37 ± 0.32 (3)", "80.05", "80.37 ± 0.32 (3)"]
    assert row(page, "Table 1", "resnet18", "metadistiller") == md
    assert row(page, "Table 4", "resnet18", "metadistiller") == md
    assert row(page, "Table 3", "resnet18", "plain")[1] == "77.60 ± 0.53 (3)"
    assert "Runs: 9, of which 9 exactly as their recipe says. Of the 57 recipes behind the tables, 3 have" in page


def test_differences_are_paired_by_seed(full: list[Record]) -> None:
    page = render(full)
    # 2.0, 1.6, 1.7: mean 1.7667, deviation 0.2082, times 4.30265 / sqrt 3 is 0.5171.
    assert row(page, "Differences", "resnet18", "metadistiller − plain")[1] == "+1.77 (+1.25 to +2.28; 3)"
    # 0.9, 1.3, 0.6: mean 0.9333, deviation 0.3512, half 0.8724; the ensembles differ by the same.
    sd = row(page, "Differences", "resnet18", "metadistiller − self_distillation")
    assert sd == ["+0.80", "+0.93 (+0.06 to +1.81; 3)", "+0.73", "+0.93 (+0.06 to +1.81; 3)"]


def test_only_common_seeds_make_pairs(full: list[Record]) -> None:
    page = render([record for record in full if (record.method, record.seed) != ("plain", 1)])
    # 2.0 and 1.7: mean 1.85, deviation 0.2121, times 12.7062 / sqrt 2 is 1.9059.
    assert row(page, "Differences", "resnet18", "metadistiller − plain")[1] == "+1.85 (-0.06 to +3.76; 2)"
    shifted = [replace(record, seed=record.seed + (5 if record.method == "plain" else 0)) for record in full]
    assert row(render(shifted), "Differences", "resnet18", "metadistiller − plain")[1] == ""


def test_one_seed_has_no_spread(full: list[Record]) -> None:
    page = render([record for record in full if record.seed == 0])
    assert row(page, "Table 1", "resnet18", "plain")[1] == "77.00 (1)"
    assert row(page, "Differences", "resnet18", "metadistiller − plain")[1] == "+2.00 (one seed)"


def test_the_order_of_entry_changes_nothing(full: list[Record]) -> None:
    # A ledger holds no run twice.
    records = list({record.id: record for record in (*full, *mixed(), *variants(), *machines())}.values())
    page = render(records)
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert render(records) == page


# Several machines

GPU = Hardware(device="cuda:0 (NVIDIA H200)", torch="2.12.0", threads=8, precision="bfloat16")
LATER = "2026-11-23T00:00:00Z"


def test_two_machines_runs_of_a_seed_are_one_seed_and_the_earliest_counts(full: list[Record]) -> None:
    again = [replace(record, hardware=GPU, date=LATER, final=record.final - 10) for record in full]
    page, alone = render([*again, *full]), render(full)
    assert row(page, "Table 1", "resnet18", "plain")[1] == "77.60 ± 0.53 (3)"
    assert row(page, "Differences", "resnet18", "metadistiller − plain")[1] == "+1.77 (+1.25 to +2.28; 3)"
    for title in ("Table 1", "Table 3", "Table 4", "Differences"):
        assert section(page, title) == section(alone, title)
    assert "Runs: 18, of which 18 exactly" in page
    assert section(page, "Runs").count("\n- **") == 18
    # It is the date that decides, and not the machine.
    earlier = [replace(record, hardware=GPU, date="2026-01-01T00:00:00Z", final=70.0) for record in full]
    assert row(render([*full, *earlier]), "Table 1", "resnet18", "plain")[1] == "70.00 ± 0.00 (3)"


def test_seeds_and_not_runs_say_which_settings_stand_in_the_table() -> None:
    two = [run("wrn16_1", "plain", seed, 50.0, overrides={"batch_size": 64}) for seed in (0, 1)]
    three = [
        run("wrn16_1", "plain", 0, 40.0, overrides={"batch_size": 32}, hardware=replace(HARDWARE, threads=threads))
        for threads in (1, 2, 3)
    ]
    assert row(render([*two, *three]), "Table 1", "wrn16_1", "plain")[1] == "50.00 ± 0.00 (2; batch_size=64)"


def test_a_pair_is_of_one_machine_where_there_is_such_a_pair() -> None:
    plain = [run("resnet18", "plain", 0, 70.0), run("resnet18", "plain", 0, 71.0, hardware=GPU, date=LATER)]
    taught = run("resnet18", "metadistiller", 0, 73.5, hardware=GPU)
    page = render([*plain, taught])
    assert row(page, "Table 1", "resnet18", "plain")[1] == "70.00 (1)"
    # 73.5 - 71 on the GPU, and not 73.5 - 70 of two machines, which is what there is without it.
    assert row(page, "Differences", "resnet18", "metadistiller − plain")[1] == "+2.50 (one seed)"
    assert row(render([plain[0], taught]), "Differences", "resnet18", "metadistiller − plain")[1] == "+3.50 (one seed)"
    # Of two such pairs the earliest: one pair a seed.
    both = render([*plain, taught, run("resnet18", "metadistiller", 0, 70.25, date=LATER)])
    assert row(both, "Differences", "resnet18", "metadistiller − plain")[1] == "+2.50 (one seed)"


# Runs that are not the recipe's


def mixed() -> list[Record]:
    return [
        run("wrn16_1", "plain", 0, 40.0, epochs=3),
        run("wrn16_1", "metadistiller", 0, 41.2, epochs=3),
        run("wrn16_1", "plain", 1, 55.0, epochs=30),
        run("vgg19_bn", "plain", 0, 30.0, epochs=3, overrides={"optim.lr": 0.05, "batch_size": 64}),
        run("vgg19_bn", "metadistiller", 0, 33.5, epochs=3, overrides={"optim.lr": 0.05, "batch_size": 64}),
        run("vgg19_bn", "dsn", 0, 31.0, epochs=3),
    ]


def test_a_short_run_is_marked_in_its_cell() -> None:
    page = render(mixed())
    assert row(page, "Table 1", "wrn16_1", "metadistiller") == [
        "70.30",
        "41.20 (1; 3 of 200 epochs)",
        "70.81",
        "42.20 (1; 3 of 200 epochs)",
    ]
    assert "Runs: 6, of which 0 exactly as their recipe says." in page


def test_runs_of_different_length_are_not_mixed_and_the_longest_stands_in_the_table() -> None:
    page = render(mixed())
    assert row(page, "Table 1", "wrn16_1", "plain")[1] == "55.00 (1; 30 of 200 epochs)"
    # Compared is what ran as long: 41.2 - 40.0, and not 41.2 - 55.0.
    gain = row(page, "Differences", "wrn16_1", "metadistiller − plain")[1]
    assert gain == "+1.20 (one seed; 3 of 200 epochs)"
    assert section(page, "Runs").count("cifar100_wrn16_1_plain**") == 2


def test_a_full_run_comes_before_shorter_changed_and_longer_ones() -> None:
    others = [
        run("wrn16_1", "plain", seed, 30.0 + seed, **changed)
        for seed in range(3)
        for changed in ({"epochs": 3}, {"overrides": {"batch_size": 64}}, {"epochs": 300})
    ]
    page = render([*others, run("wrn16_1", "plain", 9, 67.5)])
    assert row(page, "Table 1", "wrn16_1", "plain")[1] == "67.50 (1)"
    assert "Runs: 10, of which 1 exactly" in page
    # Without it, what is unchanged comes first, and of that the longest.
    assert row(render(others), "Table 1", "wrn16_1", "plain")[1] == "31.00 ± 1.00 (3; 300 of 200 epochs)"


def test_other_settings_are_marked_and_compared_with_the_same_alone() -> None:
    page = render(mixed())
    marked = "3 of 200 epochs; batch_size=64; optim.lr=0.05)"
    assert row(page, "Table 1", "vgg19_bn", "plain")[1] == f"30.00 (1; {marked}"
    assert row(page, "Differences", "vgg19_bn", "metadistiller − plain")[1] == f"+3.50 (one seed; {marked}"
    assert "metadistiller − dsn" not in [
        line[1] for line in cells(section(page, "Differences")) if line[0] == "vgg19_bn"
    ]


def test_many_other_settings_are_counted() -> None:
    overrides = {f"optim.setting_{index}": index for index in range(9)}
    page = render([run("vgg19_bn", "plain", 0, 30.0, overrides=overrides)])
    assert row(page, "Table 1", "vgg19_bn", "plain")[1] == "30.00 (1; 9 settings changed, see the runs)"
    assert "changed: optim.setting_0=0, optim.setting_1=1" in section(page, "Runs")


@pytest.mark.parametrize("overrides", [{"data.name": "digits"}, {"data.train_per_class": 50}, {"model.width": 16}])
def test_runs_on_other_data_or_of_another_network_stand_nowhere_beside_the_paper(overrides: dict[str, Any]) -> None:
    """Also where there is no other; they are compared with each other, and listed."""
    methods = ("plain", "dsn", "kd", "metadistiller")
    changed: dict[str, Any] = {"data": overrides.get("data.name", "cifar100")}
    others = [
        run("resnet18", method, 0, 30.0 + place, overrides=overrides, **changed) for place, method in enumerate(methods)
    ]
    others.append(run("resnet18", "metadistiller", 0, 20.0, overrides={**overrides, "method.alpha": 0.3}, **changed))
    page, empty = render(others), render([])
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Differences", "Cost"):
        assert section(page, title) == section(empty, title)
    assert "## Ablations" not in page
    assert "Runs: 5, of which 0 exactly" in page
    labels = ["plain", "dsn", "metadistiller", "metadistiller:alpha=0.3", "kd"]
    for title in ("Comparisons", "Runs"):
        assert [line[0] for line in cells(section(page, title)) if line[0] in labels] == labels
    ((key, value),) = overrides.items()
    found = section(page, "Comparisons")
    assert f"({key.partition('.')[2]}={value})" in found or f"### {value}, resnet18, 200 epochs\n" in found
    # Nor do they change what the others say.
    plain = run("resnet18", "plain", 1, 77.0)
    for title in ("Table 1", "Differences", "Cost"):
        assert section(render([*others, plain]), title) == section(render([plain]), title)


def test_a_candidate_stands_below_its_row_once_it_has_run() -> None:
    page = render([run("shufflenet_v2_x0_5", "plain", 0, 68.5)])
    assert row(page, "Table 1", "shufflenet_v2_x0_5", "plain") == ["68.12", "68.50 (1)", "", ""]
    assert row(page, "Table 1", "shufflenet_v2", "plain") == ["68.12", "", "", ""]
    networks = list(dict.fromkeys(line[0] for line in cells(section(page, "Table 1"))))
    assert networks[-2:] == ["shufflenet_v2", "shufflenet_v2_x0_5"]


TAUGHT = TeacherRun(network="resnet152", epochs=200, seconds=16_000.0, final=79.5, device=HARDWARE.device)


def test_a_student_of_a_shorter_teacher_is_marked_and_kept_apart() -> None:
    short = replace(TAUGHT, epochs=3, seconds=240.0)
    records = [run("resnet18", "kd", 0, 70.0, teacher=short), run("resnet18", "plain", 0, 77.0)]
    page = render(records)
    assert row(page, "Table 3", "resnet18", "kd")[1] == "70.00 (1; teacher 3 of 200)"
    assert "Runs: 2, of which 1 exactly" in page
    page = render([*records, run("resnet18", "kd", 1, 78.0, teacher=TAUGHT)])
    assert row(page, "Table 3", "resnet18", "kd")[1] == "78.00 (1)"


# Cost


def machines() -> list[Record]:
    gpu = Hardware(device="cuda (NVIDIA H200)", torch="2.12.0", threads=8, precision="bfloat16")
    return [
        run("resnet18", "plain", 0, 77.0),
        run("resnet18", "plain", 1, 77.0, seconds=2400.0, peak_memory_mb=1200.0),
        run("resnet18", "metadistiller", 0, 79.0, seconds=4400.0),
        run("resnet18", "kd", 0, 78.0, teacher=TAUGHT, seconds=3300.0, peak_memory_mb=2200.0),
        run("resnet18", "plain", 5, 20.0, epochs=3),
        run("resnet18", "dsn", 5, 20.0, hardware=gpu),
        run("resnet18", "metadistiller", 8, 20.0, overrides={"method.alpha": 0.3}),
    ]


def test_costs_are_against_plain_training_on_the_same_machine() -> None:
    page = render(machines())
    # Plain: 10 and 12 s an epoch, mean 11; 1,000 and 1,200 MiB, mean 1,100. The teacher adds 80 s an epoch.
    resnet18 = ("resnet18",)
    assert row(page, "Cost", *resnet18, "plain", "2") == ["200", "11.0", "1.00", "1.00", "", "", "1,100", "1.00"]
    assert row(page, "Cost", *resnet18, "metadistiller") == [
        "1",
        "200",
        "22.0",
        "2.00",
        "1.94",
        "",
        "",
        "1,250",
        "1.14",
    ]
    kd = row(page, "Cost", *resnet18, "kd")
    # (16.5 + 80) / 11 = 8.773.
    assert kd == ["1", "200", "16.5", "1.50", "3.23", "8.77", "9.93", "2,200", "2.00"]
    assert row(page, "Cost", *resnet18, "plain", "1")[0] == "3 of 200"
    # There is no plain run on the other machine.
    assert row(page, "Cost", *resnet18, "dsn") == ["1", "200", "25.0", "", "1.07", "", "", "1,250", ""]


def test_each_machine_has_its_own_table_and_the_papers_hours_stand_above() -> None:
    found = section(render(machines()), "Cost")
    assert "1.1 h more than plain training" in found
    assert "teacher 7.9 h" in found
    assert re.findall(r"^### (.*)", found, flags=re.MULTILINE) == [
        "cpu (x86_64), torch 2.12.0, 2 threads, float32",
        "cuda (NVIDIA H200), torch 2.12.0, 8 threads, bfloat16",
    ]


@pytest.mark.parametrize(
    ("device", "told"), [(GPU.device, "cuda:0 (NVIDIA H200)"), (None, "a device that was not recorded")]
)
def test_seconds_of_two_machines_are_not_added(device: str | None, told: str) -> None:
    elsewhere = [
        replace(record, teacher=replace(TAUGHT, device=device) if record.teacher else None) for record in machines()
    ]
    page = render(elsewhere)
    # The student's own and what is counted stay.
    kd = ["1", "200", "16.5", "1.50", "3.23", "", "9.93", "2,200", "2.00"]
    assert row(page, "Cost", "resnet18", "kd") == kd
    note = f"resnet18, kd, 200 epochs: the teacher was trained on {told}, so its seconds are not added to these."
    # Below the table of its machine, which is the first of two.
    assert note in section(page, "Cost").split("### ")[1]
    assert "its seconds are not added" not in render(machines())
    # Nor half of them: with one of two students the mean would be of another number of runs.
    mixed = [*elsewhere, replace(machines()[3], seed=1)]
    assert row(render(mixed), "Cost", "resnet18", "kd")[5] == ""


# Ablations


def variants() -> list[Record]:
    return [
        *(run("resnet18", "metadistiller", seed, final, epochs=30) for seed, final in enumerate((60.0, 61.0, 62.0))),
        *(
            run("resnet18", "metadistiller", seed, final, epochs=30, overrides={"method.targets": "labels"})
            for seed, final in enumerate((59.5, 60.0, 60.5))
        ),
        run("resnet18", "metadistiller", 0, 58.0, epochs=30, overrides={"method.temperature": 2}),
        run("resnet18", "metadistiller", 0, 57.0, epochs=30, overrides={"method.generator_lr": 0.1}),
        run("resnet18", "metadistiller", 0, 50.0, epochs=3, overrides={"method.alpha": 0.3, "batch_size": 64}),
    ]


def test_a_variant_is_never_taken_for_the_method() -> None:
    page = render(variants()[3:])
    assert row(page, "Table 1", "resnet18", "metadistiller") == ["79.05", "", "80.05", ""]
    assert len(list(cells(section(page, "Cost")))) == 0


def test_each_variant_is_a_line_with_its_difference_from_the_method() -> None:
    found = section(render(variants()), "Ablations").split("### ")
    assert [part.splitlines()[0] for part in found[1:]] == [
        "resnet18, 30 of 200 epochs",
        "resnet18, 3 of 200 epochs, batch_size=64",
    ]
    lines = {line[0]: line[1:] for line in cells(found[1])}
    assert list(lines)[2:-1] == ["as in the recipe", *paper.ABLATIONS]
    assert lines["as in the recipe"] == ["61.00 ± 1.00 (3)", "62.00 ± 1.00 (3)", ""]
    # -0.5, -1.0, -1.5: mean -1, deviation 0.5, times 4.30265 / sqrt 3 is 1.2421.
    assert lines["targets: labels"] == ["60.00 ± 0.50 (3)", "61.00 ± 0.50 (3)", "-1.00 (-2.24 to +0.24; 3)"]
    assert lines["tau = 2"] == ["58.00 (1)", "59.00 (1)", "-2.00 (one seed)"]
    assert lines["M = 10"] == ["", "", ""]
    assert lines["generator_lr = 0.1"] == ["57.00 (1)", "58.00 (1)", "-3.00 (one seed)"]
    other = {line[0]: line[1:] for line in cells(found[2])}
    assert other["as in the recipe"] == ["", "", ""]
    assert other["alpha = 0.3"] == ["50.00 (1)", "51.00 (1)", ""]


# Every run


def test_every_run_is_listed_with_what_it_took() -> None:
    record = run("resnet18", "kd", 3, 78.0, teacher=TAUGHT, overrides={"batch_size": 64}, commit="ab" * 20 + "-dirty")
    lines = section(render([record]), "Runs").splitlines()
    assert lines[-2:] == [
        "- **cifar100_resnet18_kd** seed 3, 200 epochs: final 78.00; changed: batch_size=64; teacher resnet152, "
        "200 epochs, 4 h 27 min, final 79.50; 1 h 23 min, 1,250 MiB; cpu (x86_64), torch 2.12.0, 2 threads, float32; "
        "metadistiller 0.1.0, commit abababababab-dirty; 2026-11-22T14:03:05Z",
        "  `metadistiller train cifar100_resnet18_kd --seed 3`",
    ]


def test_every_commit_of_a_run_is_listed_short() -> None:
    page = render([run("resnet18", "plain", 0, 78.0, commit=f"{'ab' * 20}-dirty, unknown, {'cd' * 20}")])
    assert "metadistiller 0.1.0, commit abababababab-dirty, unknown, cdcdcdcdcdcd; 2026" in section(page, "Runs")


def test_runs_of_other_recipes_are_listed_after_those_of_the_tables() -> None:
    other = replace(run("resnet18", "plain", 0, 60.0), recipe="a_recipe", network="resnet10", commit=None)
    listed = section(render([other, run("resnet18", "plain", 0, 77.0)]), "Runs")
    assert listed.index("- **cifar100_resnet18_plain**") < listed.index("### cifar100, resnet10, 200 epochs: runs")
    assert "Recipe a_recipe;" in listed
    assert "0.1.0, unknown" in listed


def test_all_recipes_at_once() -> None:
    records = []
    for name, make in NAMES.items():
        config = make()
        teacher = TAUGHT if config.method.name in ("kd", "fitnet", "attention_transfer") else None
        records += [run(config.model.name, config.method.name, seed, 70.0 + seed, teacher=teacher) for seed in (0, 1)]
        assert records[-1].recipe == name
    page = render(records)
    assert "Of the 57 recipes behind the tables, 57 have such a run." in page
    ours = [line for title in "1234" for line in cells(section(page, f"Table {title}"))]
    assert all(line[3] for line in ours), "a cell is empty"
    # Every comparison of these networks but DML's and its like is in the table, and all differences are zero.
    gains = [line[3] for line in cells(section(page, "Differences"))][2:]
    assert set(gains) == {"+0.00 (+0.00 to +0.00; 2)"}


# Whatever stands in a record


def test_no_text_can_break_the_page() -> None:
    nasty = "a|b`c``d\n# e\r\n<script>*x* [y](z) \\| \x1b[31m~~f~~"
    hardware = replace(HARDWARE, device=nasty)
    records = [
        run("resnet18", method, 0, 70.0, hardware=hardware, command=nasty, package=nasty, commit=nasty, **changed)
        for method, changed in (
            ("plain", {"overrides": {"optim.x": "a|b\nc"}}),
            ("metadistiller", {"overrides": {"method.x": "a|b\nc"}}),
            ("kd", {"teacher": replace(TAUGHT, network=nasty, device=f"{nasty}2")}),
        )
    ]
    page = render(records)
    clean = render([run("resnet18", "plain", 0, 70.0)])
    assert "\x1b" not in page
    assert "\r" not in page
    # As many headings as there ought to be: machine, ablation, and its own section.
    assert len(re.findall("^#", page, flags=re.MULTILINE)) == len(re.findall("^#", clean, flags=re.MULTILINE)) + 2
    assert "<script>" not in re.sub(r"(`+) ?.*?\1", "", page)
    for part in re.split(r"\n\n", page):
        assert len({len(line) for line in cells(part)}) <= 1, "a row has more cells than its table"


def test_tables_are_aligned_and_no_line_is_endless(full: list[Record]) -> None:
    long = [run("wrn16_1", "plain", 0, 60.0, command="metadistiller train " + "--x y " * 500)]
    page = render([*full, *mixed(), *variants(), *machines(), *long])
    for part in page.split("\n\n"):
        lines = part.splitlines()
        if part.startswith("|"):
            assert len({len(line) for line in lines}) == 1
            assert re.fullmatch(r"\|( -+:? \|)+", lines[1])
        assert max(map(len, lines)) < 500


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a", "`a`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("", ""),
        ("a\nb", "`a\ufffdb`"),
        ("x" * 9, "`xxxx…`"),
    ],
)
def test_code_is_fenced_by_more_than_it_holds(words: str, shown: str) -> None:
    assert code(words, limit=5) == shown


def test_text_is_shown_as_it_is() -> None:
    assert text("a*b|c<d>_e_") == r"a\*b\|c\<d\>_e_"


def test_a_table_by_hand() -> None:
    assert table(("a", "b"), [("x", "1"), ("yyyy", "22")], left=1).splitlines() == [
        "| a    |   b |",
        "| ---- | --: |",
        "| x    |   1 |",
        "| yyyy |  22 |",
    ]


# The file


def test_the_page_is_written_beside_the_ledger(tmp_path: Path, full: list[Record]) -> None:
    for record in full:
        ledger.append(tmp_path / "ledger.json", record)
    before = (tmp_path / "ledger.json").read_bytes()
    page = report.write_evidence(tmp_path)
    assert page == tmp_path / "README.md"
    assert page.read_text(encoding="utf-8") == render(full)
    assert (tmp_path / "ledger.json").read_bytes() == before
    first = page.read_bytes()
    assert report.write_evidence(str(tmp_path)).read_bytes() == first


def test_figure_3_is_shown_where_it_stands_beside_the_page(tmp_path: Path, full: list[Record]) -> None:
    ledger.append(tmp_path / "ledger.json", full[0])
    assert "figure3" not in report.write_evidence(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "figure3.svg").touch()
    page = report.write_evidence(tmp_path).read_text(encoding="utf-8")
    assert section(page, "Figure 3").endswith("(figure3.svg)\n\n")


def test_the_page_is_read_and_written_while_nobody_else_may_enter(
    tmp_path: Path, full: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the slower of two processes would put its older page over a newer one."""
    source = tmp_path / "ledger.json"
    ledger.append(source, full[0])
    held: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            with source.with_name(".ledger.json.lock").open("a") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(name)
            return function(*words)

        return call

    monkeypatch.setattr(ledger, "read", watched("read", ledger.read))
    monkeypatch.setattr(report, "write_text", watched("write", report.write_text))
    report.write_evidence(tmp_path)
    assert held == ["read", "write"]
    assert ledger.append(source, full[1]), "it is let go of"


def test_without_a_ledger_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"ledger\.json is not there; give the folder of a ledger"):
        report.write_evidence(tmp_path)
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(LedgerError, match="is not JSON"):
        report.write_evidence(tmp_path)
    assert not (tmp_path / "README.md").exists()
