"""The evidence page: made-up runs, and what must stand beside the paper's numbers, worked out by hand."""

import random
from dataclasses import replace

from metadistiller import paper
from metadistiller.ledger import Record
from metadistiller.recipes.paper import NAMES
from metadistiller.report._evidence import render

from .evidence import GPU, HARDWARE, TAUGHT, cells, machines, mixed, row, run, section, variants

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


# Several machines

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
