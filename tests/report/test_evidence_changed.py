"""Runs on the evidence page that are not as their recipe says: marked, never mixed with others, and the ablations."""

from dataclasses import replace
from typing import Any

import pytest

from metadistiller import paper
from metadistiller.report._evidence import render

from .evidence import TAUGHT, cells, mixed, row, run, section, variants


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


def test_a_student_of_a_shorter_teacher_is_marked_and_kept_apart() -> None:
    short = replace(TAUGHT, epochs=3, seconds=240.0)
    records = [run("resnet18", "kd", 0, 70.0, teacher=short), run("resnet18", "plain", 0, 77.0)]
    page = render(records)
    assert row(page, "Table 3", "resnet18", "kd")[1] == "70.00 (1; teacher 3 of 200)"
    assert "Runs: 2, of which 1 exactly" in page
    page = render([*records, run("resnet18", "kd", 1, 78.0, teacher=TAUGHT)])
    assert row(page, "Table 3", "resnet18", "kd")[1] == "78.00 (1)"


# Ablations


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
