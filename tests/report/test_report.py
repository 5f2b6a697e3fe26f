"""What the page promises: it opens offline, says what was measured, and trusts no name."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import pytest

from metadistiller import report
from metadistiller.errors import CheckpointError
from metadistiller.records import RunFolder, read_json, write_json
from metadistiller.report._tables import entropy

from .pages import FakeRun, Page, written

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "bell\x07 and \ud800 and \u202etxt",
    r"$\frac{",
    "{{ 7 * 7 }}",
    "熊猫 ظبي",
    "a name that is far longer than any chart has room for, and then some " * 3,
    "",
]


@pytest.fixture(scope="module")
def page(fake_run: FakeRun) -> Page:
    """Of a run with three exits and soft targets; tests only read it."""
    return written(fake_run())


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    links = page.attributes("src", "href", "srcset", "action", "style")
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.attributes("content")


def test_charts_need_nothing_from_elsewhere(page: Page) -> None:
    charts = page.charts()
    assert len(charts) > 10
    for chart in charts:
        assert "$" not in "".join(chart.itertext()), "a formula that is not drawn as one"
        for element in chart.iter():
            for name, value in element.attrib.items():
                if name.endswith(("href", "src")):
                    assert value.startswith(("#", "data:")), value


def test_every_picture_says_what_it_shows(page: Page) -> None:
    assert all(given.get("alt") for tag, given in page.tags if tag == "img")


@pytest.mark.parametrize("num_classes", [12, 40])
def test_a_hostile_class_name_is_only_text(fake_run: FakeRun, num_classes: int) -> None:
    classes = [*HOSTILE, *(f"class {index}" for index in range(num_classes - len(HOSTILE)))]
    page = written(fake_run(classes=classes))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not page.attributes("onerror")
    charts = [element.tag.rsplit("}")[-1] for chart in page.charts() for element in chart.iter()]
    assert "text" in charts
    assert "script" not in charts
    # The first three are the classes of the pictures.
    for name in (*HOSTILE[:2], "bell\ufffd and \ufffd and \ufffdtxt"):
        assert name in page.sections["Soft targets"]


def test_hostile_settings_and_environment_are_only_text(fake_run: FakeRun) -> None:
    folder = fake_run()
    folder.append_event("resume", command="<b>x</b>", environment={"<i>device</i>": ["<u>cpu</u>", None]})
    folder.config.write_text(folder.config.read_text() + "# </pre><script>alert(1)</script>\n")
    page = written(folder)
    assert not {"script", "i", "u"} & {tag for tag, _ in page.tags}
    assert "<b>x</b>" in page.sections["Run"]
    assert '["<u>cpu</u>", null]' in page.sections["Environment"]


def test_the_same_run_gives_the_same_bytes(fake_run: FakeRun, page: Page) -> None:
    again = fake_run()
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        report.write(again.path)
        assert dict(matplotlib.rcParams) == before, "drawing changed the reader's own settings"
    assert again.report.read_bytes() == page.folder.report.read_bytes()


def test_the_numbers_are_those_of_the_result(page: Page) -> None:
    result = read_json(page.folder.result)
    (found,) = [table for table in page.tables if table[0][:2] == ["Output", "Top-1, %"] and len(table[0]) == 5]
    table = {row[0]: row[1] for row in found[1:]}
    expected = {f"exit {k}": percent for k, percent in enumerate(result["exits"], start=1)}
    expected |= {"final": result["final"], "ensemble": result["ensemble"]}
    assert table == {name: f"{percent:.2f}" for name, percent in expected.items()}
    assert "Final accuracy 85.30 %, ensemble of all 4 exits 87.10 %, on 1,000 test" in page.sections[""]
    assert "6 min 12 s" in page.sections["Cost"]
    assert "1,234 MiB" in page.sections["Cost"]


def test_the_settings_are_given_word_for_word(page: Page) -> None:
    assert page.folder.config.read_text() in page.sections["Run"]


def test_a_plain_run_has_neither_exits_nor_soft_targets(fake_run: FakeRun) -> None:
    page = written(fake_run(exits=[]))
    assert list(page.sections) == [
        *("", "Run", "Accuracy", "Training", "Confusion", "Mistakes", "Calibration", "Cost", "Environment")
    ]
    (table,) = [table for table in page.tables if table[0][0] == "Output" and len(table[0]) == 5]
    assert [row[0] for row in table] == ["Output", "final"]
    assert not re.search(r"exit|ensemble|soft target", page.sections[""])


def changed(folder: RunFolder, change: Callable[[dict[str, Any]], None]) -> RunFolder:
    """The run with what its soft_targets.json holds, and then each image in it, put through `change`."""
    exhibits = read_json(folder.soft_targets)
    for values in (exhibits, *exhibits["images"]):
        change(values)
    write_json(folder.soft_targets, exhibits)
    return folder


def table_of_entropies(page: Page) -> list[list[str]]:
    (table,) = [table for table in page.tables if table[0][1] == "Soft target"]
    return table[1:]


def panels(page: Page) -> list[str]:
    """Above the charts of each picture, and what they say."""
    captions = re.findall(r"<figcaption><b>((?:Stage \d|Final output)</b><span>[^<]*)", page.source)
    return [caption.replace("</b><span>", ": ") for caption in captions]


def test_a_method_without_soft_targets_shows_its_exits(fake_run: FakeRun) -> None:
    def strip(values: dict[str, Any]) -> None:
        if "targets" in values:
            values["targets"] = []
        if "entropy" in values:
            values["entropy"]["targets"] = []

    folder = changed(fake_run(), strip)
    rows = [{key: row[key] for key in ("epoch", "loss", "final")} for row in folder.read_rows()]
    folder.write_rows([dict(row) for row in rows])
    page = written(folder)
    assert "Soft targets" not in page.sections
    assert "(S, outlined bars)" in page.sections["Exits"]
    assert re.fullmatch(r"Stage 1: entropy: S \d\.\d\d nats", panels(page)[0])
    assert table_of_entropies(page)[0] == ["stage 1", "–", "1.500"]


def test_panels_show_target_and_exit_of_every_stage(page: Page) -> None:
    found = panels(page)
    assert [caption.split(":")[0] for caption in found] == 3 * ["Stage 1", "Stage 2", "Stage 3", "Final output"]
    image = read_json(page.folder.soft_targets)["images"][0]
    target, exit_ = entropy(tuple(image["targets"][0])), entropy(tuple(image["exits"][0]))
    assert found[0] == f"Stage 1: entropy: T {target:.2f}, S {exit_:.2f} nats"
    alts = [alt for alt in page.attributes("alt") if alt.startswith("Bar chart.")]
    assert len(alts) == len(found)
    assert f"Stage 1, S: most on class 0 ({image['exits'][0][0]:.2f})" in alts[0]


def test_mean_entropies_are_those_of_the_run(page: Page) -> None:
    assert table_of_entropies(page) == [
        ["stage 1", "2.000", "1.500"],
        ["stage 2", "1.700", "1.250"],
        ["stage 3", "1.400", "1.000"],
        ["final", "–", "0.125"],
    ]
    assert f"1,000 test images; {math.log(10):.3f} where" in page.sections["Soft targets"]


def test_an_older_run_is_read_and_says_what_it_lacks(fake_run: FakeRun) -> None:
    def age(values: dict[str, Any]) -> None:
        for key in ("index", "exits", "entropy"):
            values.pop(key, None)

    page = written(changed(fake_run(), age))
    assert "neither the exits' own outputs nor the mean entropies" in page.sections["Soft targets"]
    assert re.fullmatch(r"Stage 1: entropy: T \d\.\d\d nats", panels(page)[0])
    assert not [table for table in page.tables if table[0][1] == "Soft target"]


def test_what_a_method_records_besides_is_drawn(fake_run: FakeRun) -> None:
    folder = fake_run()
    rows = [dict(row) | {"peer_kl": 0.5, "exit_1_hint": 0.25} for row in folder.read_rows()]
    folder.write_rows(rows)
    training = written(folder).sections["Training"]
    assert "Peer kl" in training
    assert "Part of the loss: hint" in training


def test_importing_and_writing_need_no_torch(fake_run: FakeRun) -> None:
    code = (
        "import sys; from metadistiller import report\n"
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules), 'import is not cheap'\n"
        f"report.write({str(fake_run().path)!r})\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def profiled(folder: RunFolder, **parts: tuple[float, int]) -> RunFolder:
    """The run, with so many seconds and calls of each part in one sitting."""
    told = {name: {"seconds": seconds, "calls": calls} for name, (seconds, calls) in parts.items()}
    folder.append_event("profile", parts=told, seconds=372.4)
    return folder


def test_where_the_time_went_is_shown_where_it_was_measured(fake_run: FakeRun, page: Page) -> None:
    title = "Where the time went"
    assert title not in page.sections["Cost"]
    assert "rect" not in {tag for tag, _ in page.tags}
    folder = profiled(fake_run(), other=(40.0, 1), student=(90.0, 600), generator=(270.0, 1000))
    found = written(folder)
    assert list(found.sections) == list(page.sections)
    (table,) = [table for table in found.tables if table[0][0] == "Part"]
    assert table == [
        ["Part", "Seconds", "Share, %", "", "Calls", "ms a call"],
        ["generator", "270.00", "67.5", "", "1,000", "270.00"],
        ["student", "90.00", "22.5", "", "600", "150.00"],
        ["other", "40.00", "10.0", "", "", ""],
    ]
    assert [given["width"] for tag, given in found.tags if tag == "rect"] == ["67.5", "22.5", "10.0"]
    assert title in found.sections["Cost"]
    assert "Measured over 400.0 s." in found.sections["Cost"]


def test_times_of_all_sittings_add_up_and_say_what_they_are_of(fake_run: FakeRun) -> None:
    folder = profiled(fake_run(), student=(60.0, 10))
    folder.append_event("resume", command="metadistiller resume", environment={})
    folder.append_event("resume", command="metadistiller resume", environment={})
    found = written(profiled(folder, student=(40.0, 30)))
    assert "Measured over 100.0 s of 372.4 s, in 2 of 3 sittings." in found.sections["Cost"]
    (table,) = [table for table in found.tables if table[0][0] == "Part"]
    assert table[1:] == [["student", "100.00", "100.0", "", "40", "2,500.00"]]


def test_a_hostile_part_is_only_text(fake_run: FakeRun) -> None:
    found = written(profiled(fake_run(), **{"<script>\x07": (1.0, 1)}))
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<script>\ufffd" in found.sections["Cost"]


def test_a_folder_that_is_no_run_is_refused(fake_run: FakeRun) -> None:
    with pytest.raises(CheckpointError, match="is no run folder"):
        report.write(fake_run().path / "checkpoints")


def test_an_unfinished_run_is_refused(fake_run: FakeRun) -> None:
    folder = fake_run()
    folder.result.unlink()
    with pytest.raises(CheckpointError, match=r"is not finished.*metadistiller resume"):
        report.write(folder.path)


@pytest.mark.parametrize("name", ["results.csv", "events.jsonl", "evaluation.json", "soft_targets.json", "config.yaml"])
def test_a_missing_file_is_named(fake_run: FakeRun, name: str) -> None:
    folder = fake_run()
    (folder.path / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        report.write(folder.path)
    assert not folder.report.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", "[]"),
        ("evaluation.json", '{"count": 10}'),
        ("soft_targets.json", '{"images": [{"png": "AAAA", "label": 0, "final": [], "targets": []}]}'),
        ("soft_targets.json", '{"images": [{"png": "<svg>", "label": 0, "final": [], "targets": []}]}'),
        ("soft_targets.json", '{"images": [], "entropy": {"count": 0, "targets": [], "exits": [], "final": 0}}'),
        ("soft_targets.json", '{"images": [], "entropy": {"count": 9, "targets": [1], "exits": [], "final": 0}}'),
        ("soft_targets.json", '{"images": [], "entropy": {"count": 9, "targets": [], "exits": [-1], "final": 0}}'),
        ("results.csv", "epoch,lr\n0,fast\n"),
        ("events.jsonl", '{"event": "epoch"}\n'),
        ("events.jsonl", '{"event": "finish"}\n'),
        ("config.yaml", "epochs: 3\n"),
        ("config.yaml", "optim: {schedule: 3}\n"),
        ("mistakes.json", '{"count": 5, "wrong": 1}'),
        ("mistakes.json", '{"classes": [], "count": 5, "wrong": 1, "images": []}'),
        ("outcomes.safetensors", "{}"),
        ("early_exit.json", "{}"),
    ],
)
def test_a_damaged_file_is_named(fake_run: FakeRun, name: str, text: str) -> None:
    folder = fake_run()
    (folder.path / name).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        report.write(folder.path)


@pytest.mark.parametrize(
    "parts",
    [[1], {"student": 3}, {"student": {"seconds": "long", "calls": 1}}, {"student": {"seconds": -1, "calls": 1}}],
)
def test_a_damaged_profile_is_named(fake_run: FakeRun, parts: Any) -> None:
    folder = fake_run()
    folder.append_event("profile", parts=parts)
    with pytest.raises(CheckpointError, match=r"events\.jsonl does not hold"):
        report.write(folder.path)


@pytest.mark.parametrize(
    "changed",
    [
        {"png": "AAAA"},
        {"label": 10},
        {"answer": 10},
        {"answer": 0},  # that is the label
        {"confidence": 1.5},
        {"label_share": -0.1},
        {"exits": [{"answer": 3}]},
        {"index": "first"},
    ],
)
def test_a_damaged_mistake_is_named(fake_run: FakeRun, changed: dict[str, Any]) -> None:
    folder = fake_run()
    values = read_json(folder.mistakes)
    values["images"][0] |= changed
    write_json(folder.mistakes, values)
    with pytest.raises(CheckpointError, match=r"mistakes\.json does not hold"):
        report.write(folder.path)


@pytest.mark.parametrize("of", [{"exits": [652]}, {"classes": ["a", "b"]}])
def test_outputs_of_another_run_are_refused(fake_run: FakeRun, of: dict[str, Any]) -> None:
    folder = fake_run()
    fake_run(**of).outcomes.replace(folder.outcomes)
    with pytest.raises(CheckpointError, match=r"outcomes\.safetensors does not hold.*evaluation\.json"):
        report.write(folder.path)


def test_counts_of_another_run_are_refused(fake_run: FakeRun) -> None:
    folder = fake_run()
    values = json.loads(folder.result.read_text())
    write_json(folder.result, values | {"final": 85.4})
    with pytest.raises(CheckpointError, match="not of the same run"):
        report.write(folder.path)
