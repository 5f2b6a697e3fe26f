"""What stands in the sections of a run's page, against the files that it is made of."""

from dataclasses import replace

import pytest

from metadistiller import outcomes, report
from metadistiller.errors import CheckpointError
from metadistiller.outcomes import chosen
from metadistiller.outcomes.policy import Policy
from metadistiller.records import read_json, write_json
from metadistiller.report._judging import judge

from .pages import FakeRun, Page, check_tables, keep_some, table_below, written


@pytest.fixture(scope="module")
def page(fake_run: FakeRun) -> Page:
    """Of a run with three exits and soft targets; tests only read it."""
    return written(fake_run())


def test_the_contents_lead_to_every_section(page: Page) -> None:
    entries = [link for link in page.attributes("href") if link.startswith("#")]
    assert [entry[1:] for entry in entries] == [given["id"] for tag, given in page.tags if tag == "section"]
    assert len(entries) == len(set(entries)) == len(page.sections) - 1


def test_what_was_asked_for_stands_before_all_settings(page: Page) -> None:
    told = page.sections["Run"]
    assert "metadistiller train digits --epochs 12" in told
    assert ["epochs", "12"] in [row for table in page.tables for row in table]
    folded = page.source.index("<details>")
    assert page.source.index("Settings that were asked for") < folded < page.source.index("backbone_lr_factor")


def test_every_sitting_has_its_command(fake_run: FakeRun) -> None:
    folder = fake_run()
    folder.append_event("resume", command="metadistiller resume x", environment={"device": "cpu"}, epoch=3, step=7)
    told = written(folder).sections["Run"]
    assert "metadistiller train digits" in told
    assert "Taken up after 3 epochs and 7 steps" in told
    assert "metadistiller resume x" in told


def test_each_player_has_its_learning_rate(page: Page) -> None:
    assert "Learning rate of the student" in page.sections["Training"]
    assert "Learning rate of the generator" in page.sections["Training"]
    assert "Generator lr" not in page.sections["Training"]


def test_mistakes_are_shown_with_what_every_exit_says(page: Page) -> None:
    told = page.sections["Mistakes"]
    assert "147 of 1,000 test images\nwrong (14.70 %)" in told
    assert "the 3 that it" in told
    (alt, *_) = [alt for alt in page.attributes("alt") if alt.startswith("Test image 7 ")]
    assert alt == (
        "Test image 7 of the class class 1: the final output says class 2 (0.89), "
        "exit 1 says class 1 (0.50), exit 2 says class 2 (0.60), exit 3 says class 3 (0.70)."
    )
    assert "exit 1: class 1, 0.50 ✓" in told
    assert "exit 2: class 2, 0.60" in told
    assert told.count("✓") == 1 + 3, "exit 1 of each, and the note"


def test_a_sample_of_the_test_images_is_called_one(fake_run: FakeRun) -> None:
    folder = fake_run()
    keep_some(folder)
    page = written(folder)
    sample = "500 evenly spread images of 1,000"
    assert f"70 of {sample}\nwrong (14.00 %)" in page.sections["Mistakes"]
    for section, word in (("Calibration", "Of"), ("Early exits", "On")):
        assert f"{word} {sample}" in page.sections[section]
    write_json(folder.mistakes, read_json(folder.mistakes) | {"wrong": 0, "images": []})
    assert f"has all {sample} right" in written(folder).sections["Mistakes"]


def test_tables_are_read_aloud_by_their_rows(page: Page) -> None:
    check_tables(page)


def test_classes_are_listed_the_worst_first(page: Page) -> None:
    confusion = read_json(page.folder.evaluation)["confusion"]
    expected = sorted((100 * row[true] / sum(row), true) for true, row in enumerate(confusion))
    rows = table_below(page, "Class", "Images")
    assert [(row[0], row[2]) for row in rows] == [(f"class {true}", f"{percent:.2f}") for percent, true in expected]
    worst = confusion[expected[0][1]]
    wrong = [0 if place == expected[0][1] else images for place, images in enumerate(worst)]
    assert rows[0][4] == f"class {wrong.index(max(wrong))} ({max(wrong)})"


def test_of_many_classes_both_ends_are_shown_and_all_are_folded_away(fake_run: FakeRun) -> None:
    page = written(fake_run(classes=[f"class {index}" for index in range(40)]))
    sizes = [len(table) - 1 for table in page.tables if table[0][:2] == ["Class", "Images"]]
    assert sizes == [10, 5, 40]
    assert any("40 by 40 classes, without names" in alt for alt in page.attributes("alt"))


def test_calibration_and_early_exits_are_those_of_the_outputs(page: Page) -> None:
    judged = judge(outcomes.read(page.folder.outcomes))
    rows = table_below(page, "Output", "Top-1, %", "ECE, %")
    assert [row[0] for row in rows] == ["exit 1", "exit 2", "exit 3", "final"]
    for row, found in zip(rows, judged.outputs, strict=True):
        assert row[2:4] == [f"{100 * found.before.bins.ece:.2f}", f"{found.before.nll:.3f}"]
        assert row[5:] == [f"{100 * found.after.bins.ece:.2f}", f"{found.after.nll:.3f}"]
    rows = table_below(page, "Answered by")
    assert rows[0][:4] == ["plain network", "85.30", "4 M", "0.0"]
    # 1.2 of 4 million for the first exit alone.
    assert rows[-3][:4] == ["exit 1 alone", "65.20", "1.2 M", "70.0"]
    assert "Not calibrated yet" in page.sections["Early exits"]


def test_what_was_calibrated_is_shown_as_it_was_measured(fake_run: FakeRun) -> None:
    folder = fake_run()
    policy = Policy(temperatures=(0.5, 1.0, 1.25, 2.0), thresholds=(0.875, None, 0.5))
    plain = chosen.Row(
        name="plain network",
        policy=None,
        accuracy=85.0,
        loss=None,
        interval=None,
        macs=4e6,
        saved=0.0,
        left=(0, 0, 0, 500),
        latency=(chosen.Latency(batch=1, ms=2.0, images_per_second=500.0, ratio=1.0),),
    )
    early = chosen.Row(
        name="early <b>exit</b>",
        policy=policy,
        accuracy=84.8,
        loss=0.2,
        interval=(-0.1, 0.5),
        macs=1e6,
        saved=75.0,
        left=(400, 0, 50, 50),
        latency=(chosen.Latency(batch=1, ms=1.0, images_per_second=1000.0, ratio=0.5),),
    )
    held_out = chosen.HeldOut(share=0.5, chosen_on=500, measured_on=500, told="Chosen on <i>half</i>.")
    found = chosen.EarlyExit(
        target=chosen.Target(max_loss=0.5),
        held_out=held_out,
        policy=policy,
        measured=(plain, early),
        proved={"images": 500, "same": 500},
    )
    chosen.write(found, folder.early_exit)
    page = written(folder)
    assert not {"b", "i"} & {tag for tag, given in page.tags if "half" in str(given)}
    assert "Chosen for at most 0.5 points lost. Chosen on <i>half</i>." in page.sections["Early exits"]
    assert table_below(page, "Output", "Threshold") == [
        ["exit 1", "0.875", "0.50"],
        ["exit 2", "not used", "1.00"],
        ["exit 3", "0.500", "1.25"],
        ["final", "–", "2.00"],
    ]
    assert table_below(page, "Network", "Top-1, %") == [
        ["plain network", "85.00", "–", "4,000,000", "0.0", "2.00 (1.00 ×)"],
        ["early <b>exit</b>", "84.80", "+0.20 (-0.10 to +0.50)", "1,000,000", "75.0", "1.00 (0.50 ×)"],
    ]
    assert any("calibrated 85.10 % at 1 MMACs" in alt for alt in page.attributes("alt"))
    chosen.write(
        replace(found, policy=Policy(temperatures=(1.0, 1.0), thresholds=(0.5,)), measured=()), folder.early_exit
    )
    with pytest.raises(CheckpointError, match=r"early_exit\.json"):
        report.write(folder.path)


def test_an_older_run_says_which_files_it_lacks(fake_run: FakeRun) -> None:
    folder = fake_run()
    folder.mistakes.unlink()
    folder.outcomes.unlink()
    lines = folder.events.read_text().splitlines()
    folder.events.write_text("\n".join([lines[0].replace('"changed"', '"was"'), *lines[1:]]) + "\n")
    sections = written(folder).sections
    assert "before mistakes.json was written" in sections["Mistakes"]
    assert "before outcomes.safetensors was written" in sections["Calibration"]
    assert "before outcomes.safetensors was written" in sections["Early exits"]
    assert "before it was recorded which settings were asked for" in sections["Run"]
