"""What the page promises: it opens offline, says what was measured, and trusts no name."""

import base64
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser

import matplotlib
import pytest

from metadistiller import report
from metadistiller.errors import CheckpointError
from metadistiller.records import RunFolder, read_json, write_json

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
FakeRun = Callable[..., RunFolder]

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with attributes, the text of each section (by its h2), and cells of the first table."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self.tables: list[list[list[str]]] = []
        self.folder = folder
        self.source = folder.report.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.sections["?"] = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "h2":
            self.sections[self.sections.pop("?")] = ""

    def handle_data(self, data: str) -> None:
        self.sections[list(self.sections)[-1]] += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def attributes(self, *names: str) -> list[str]:
        return [value for _, given in self.tags for name, value in given.items() if name in names]

    def charts(self) -> list[ElementTree.Element]:
        prefix = "data:image/svg+xml;base64,"
        return [
            ElementTree.fromstring(base64.b64decode(uri[len(prefix) :]))
            for uri in self.attributes("src")
            if uri.startswith(prefix)
        ]


def written(folder: RunFolder) -> Page:
    assert report.write(folder.path) == folder.report
    return Page(folder)


@pytest.fixture(scope="module")
def page(fake_run: FakeRun) -> Page:
    """Of a run with three exits and soft targets; tests only read it."""
    return written(fake_run())


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    links = page.attributes("src", "href", "srcset", "action", "style")
    assert links
    assert all(link.startswith("data:image/") for link in links)
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
    assert "<b>x</b>" in page.sections["Environment"]
    assert '["<u>cpu</u>", null]' in page.sections["Environment"]
    assert "2 (the run was resumed)" in page.sections["Cost"]


def test_the_same_run_gives_the_same_bytes(fake_run: FakeRun, page: Page) -> None:
    again = fake_run()
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        report.write(again.path)
        assert dict(matplotlib.rcParams) == before, "drawing changed the reader's own settings"
    assert again.report.read_bytes() == page.folder.report.read_bytes()


def test_the_numbers_are_those_of_the_result(page: Page) -> None:
    result = read_json(page.folder.result)
    table = {row[0]: row[1] for row in page.tables[0][1:]}
    expected = {f"exit {k}": percent for k, percent in enumerate(result["exits"], start=1)}
    expected |= {"final": result["final"], "ensemble": result["ensemble"]}
    assert table == {name: f"{percent:.2f}" for name, percent in expected.items()}
    assert "Final accuracy 85.30 %, ensemble of all 4 exits 87.10 %, on 1,000 test" in page.sections[""]
    assert "6 min 12 s" in page.sections["Cost"]
    assert "1,234 MB" in page.sections["Cost"]


def test_the_settings_are_given_word_for_word(page: Page) -> None:
    assert page.folder.config.read_text() in page.sections[""]


def test_a_plain_run_has_neither_exits_nor_soft_targets(fake_run: FakeRun) -> None:
    page = written(fake_run(exits=[]))
    assert list(page.sections) == ["", "Accuracy", "Training", "Confusions", "Cost", "Environment"]
    assert [row[0] for row in page.tables[0]] == ["Output", "final"]
    assert not re.search(r"exit|ensemble|soft target", page.sections[""].split("Settings")[0])


def test_a_method_without_soft_targets_has_no_such_section(fake_run: FakeRun) -> None:
    folder = fake_run()
    exhibits = read_json(folder.soft_targets)
    for image in exhibits["images"]:
        image["targets"] = []
    write_json(folder.soft_targets, exhibits)
    rows = [{key: row[key] for key in ("epoch", "loss", "final")} for row in folder.read_rows()]
    folder.write_rows([dict(row) for row in rows])
    assert "Soft targets" not in written(folder).sections


def test_what_a_method_records_besides_is_drawn(fake_run: FakeRun) -> None:
    folder = fake_run()
    rows = [dict(row) | {"peer_kl": 0.5, "exit_1_hint": 0.25} for row in folder.read_rows()]
    folder.write_rows(rows)
    training = written(folder).sections["Training"]
    assert "peer kl" in training
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
        ("results.csv", "epoch,lr\n0,fast\n"),
        ("events.jsonl", '{"event": "epoch"}\n'),
        ("events.jsonl", '{"event": "finish"}\n'),
        ("config.yaml", "epochs: 3\n"),
    ],
)
def test_a_damaged_file_is_named(fake_run: FakeRun, name: str, text: str) -> None:
    folder = fake_run()
    (folder.path / name).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        report.write(folder.path)


def test_counts_of_another_run_are_refused(fake_run: FakeRun) -> None:
    folder = fake_run()
    values = json.loads(folder.result.read_text())
    write_json(folder.result, values | {"final": 85.4})
    with pytest.raises(CheckpointError, match="not of the same run"):
        report.write(folder.path)
