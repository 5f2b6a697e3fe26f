"""Several runs on one page: differences are paired, curves are means, and nothing is compared that is not alike."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from metadistiller import cli, report
from metadistiller.errors import CheckpointError, ConfigError
from metadistiller.paired import t_quantile
from metadistiller.records import RunFolder, compared_run, read_json, write_json
from metadistiller.report import _beside, _rows
from metadistiller.report._comparing import read_comparison, read_several
from metadistiller.report._rows import overlays

from .pages import FakeRun, Page, check_tables, keep_some, table_below

FINALS = {"plain": (800, 820), "dsn": (830, 840), "metadistiller:alpha=0.7": (853, 871)}
Compared = Callable[[Path], Path]


@pytest.fixture(scope="module")
def compared(fake_run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A function that writes what `compare` leaves of three methods with two seeds each into a folder."""
    made = tmp_path_factory.mktemp("compared") / "made"
    for label, finals in FINALS.items():
        for seed, final in enumerate(finals):
            run = compared_run(made, label, seed)
            method = label.partition(":")[0]
            fake_run(path=run.path, method=method, seed=seed, final=final, exits=[] if label == "plain" else None)
            values = read_json(run.result)
            write_json(run.result, values | {"seconds": 100.0 * (1 + len(label)) + seed, "peak_memory_mb": 500.0})
    rows = [
        {"method": label, "finals": {str(seed): final / 10 for seed, final in enumerate(finals)}, "teaches": False}
        for label, finals in FINALS.items()
    ]
    write_json(made / "compare.json", {"command": "metadistiller compare <b>x</b>", "rows": rows})

    def copy(to: Path) -> Path:
        shutil.copytree(made, to)
        return to

    return copy


@pytest.fixture(scope="module")
def comparison(compared: Compared, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of all of it, with one run that has a page of its own."""
    folder = compared(tmp_path_factory.mktemp("comparison") / "out")
    report.write(compared_run(folder, "plain", 0).path)
    return Page(report.write_comparison(folder))


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    values = read_json(folder / "compare.json")
    change(values)
    write_json(folder / "compare.json", values)
    return folder


def test_a_comparison_has_means_deviations_and_paired_differences(comparison: Page) -> None:
    rows = table_below(comparison, "Method", "Seeds")
    deviation = math.sqrt(2)  # of two values that are 2 apart
    assert rows[0] == ["plain", "2", f"81.00 ± {deviation:.2f}", "–", "–"]
    # dsn - plain is 3 and 2: mean 2.5, deviation sqrt(0.5).
    half = t_quantile(0.975, 1) * math.sqrt(0.5) / math.sqrt(2)
    assert rows[1][2:] == ["83.50 ± 0.71", "87.10 ± 0.00", f"+2.50 ({2.5 - half:+.2f} to {2.5 + half:+.2f})"]
    assert table_below(comparison, "Method", "Seed 0") == [
        ["plain", "80.00", "82.00"],
        ["dsn", "83.00", "84.00"],
        ["metadistiller:alpha=0.7", "85.30", "87.10"],
    ]
    pairs = table_below(comparison, "Row minus column")
    assert [pairs[place][place + 1] for place in range(3)] == ["–", "–", "–"]
    assert pairs[1][1].startswith("+2.50 (")
    assert pairs[0][2].startswith("-2.50 (")


def test_a_comparison_has_its_command_and_what_differs(comparison: Page) -> None:
    assert "metadistiller compare <b>x</b>" in comparison.sections["Run"]
    assert ["method", "plain", "dsn", "metadistiller"] in table_below(comparison, "Setting")
    assert not [row for table in comparison.tables for row in table if row[0] == "seed"]


def test_costs_stand_beside_those_of_plain_training(comparison: Page) -> None:
    rows = table_below(comparison, "Method", "Training")
    # 600.5 and 400.5 seconds in the mean.
    assert [row[2] for row in rows[:2]] == ["1.00", f"{400.5 / 600.5:.2f}"]
    assert [row[5] for row in rows] == ["1.00", "1.00", "1.00"]
    assert comparison.source.count("Peak memory, MiB") == 2
    assert not re.search(r"\bMB\b", comparison.source)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "resnet18", "width": 4}},
        {"data": {"name": "digits", "train_per_class": 9}},
        {"batch_size": 7},
    ],
)
def test_costs_are_divided_only_by_those_of_the_same_training(
    compared: Compared, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = compared(tmp_path / "out")
    config = compared_run(folder, "plain", 0).config
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    rows = table_below(Page(report.write_comparison(folder)), "Method", "Training")
    assert [(row[2], row[5]) for row in rows] == [("1.00", "1.00"), ("–", "–"), ("–", "–")]


def test_the_highest_mean_is_over_seeds_that_all_rows_have(compared: Compared, tmp_path: Path) -> None:
    """A row whose worse seed is missing is not the better for it."""
    folder = compared(tmp_path / "out")
    headline = Page(report.write_comparison(folder)).source
    assert "accuracy: 86.20 % (metadistiller:alpha=0.7), over 2 seeds." in headline

    def only(**seeds: str) -> Callable[[dict[str, Any]], None]:
        def change(values: dict[str, Any]) -> None:
            for row in values["rows"]:
                if row["method"] in seeds:
                    row["finals"] = {
                        seed: final for seed, final in row["finals"].items() if seed == seeds[row["method"]]
                    }

        return change

    # Over all of its seeds it has 86.20, over the one that dsn has too 85.30.
    page = Page(report.write_comparison(edited(folder, only(dsn="0"))))
    assert "accuracy: 85.30 % (metadistiller:alpha=0.7), over the one seed that all rows have." in page.source
    page = Page(report.write_comparison(edited(folder, only(plain="1"))))
    assert "Highest" not in page.sections[""]
    assert "none is ranked above another: plain one seed, dsn one seed, metadistiller:alpha=0.7 2 seeds." in page.source


def test_a_row_has_one_colour_on_every_chart(compared: Compared, tmp_path: Path) -> None:
    """Beside a teacher, too, which is on the curves and not among the dots."""

    def teach(values: dict[str, Any]) -> None:
        values["rows"].insert(0, values["rows"].pop(1) | {"teaches": True})

    folder = edited(compared(tmp_path / "out"), teach)
    found: dict[str, set[str]] = {}
    curves = _rows.lines

    def keep(lines: Any, **given: Any) -> Any:
        for line in lines:
            found.setdefault(line.name, set()).add(line.colour)
        return curves(lines, **given)

    def styled(draw: Any) -> Any:
        def keep(values: Any, styles: Any, **given: Any) -> Any:
            for name in values:
                found.setdefault(name, set()).add(styles[name][0])
            return draw(values, styles, **given)

        return keep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "lines", keep)
        patch.setattr(_beside, "dots", styled(_beside.dots))
        patch.setattr(_beside, "tradeoffs", styled(_beside.tradeoffs))
        report.write_comparison(folder)
    assert set(found) == set(FINALS)
    assert {len(colours) for colours in found.values()} == {1}
    assert len(set.union(*found.values())) == 3


def test_calibration_says_of_how_many_images(comparison: Page, compared: Compared, tmp_path: Path) -> None:
    assert [row[1] for row in table_below(comparison, "Method", "Images")] == ["1,000"] * 3
    folder = compared(tmp_path / "out")
    for seed in (0, 1):
        keep_some(compared_run(folder, "dsn", seed))
    rows = table_below(Page(report.write_comparison(folder)), "Method", "Images")
    assert [row[1] for row in rows] == ["1,000", "500 of 1,000", "1,000"]


def test_a_run_has_a_link_where_it_has_a_page(comparison: Page) -> None:
    assert [link for link in comparison.attributes("href") if not link.startswith("#")] == ["plain/s0/report.html"]
    assert len(table_below(comparison, "Run", "Seed")) == 6


def test_pages_of_several_need_nothing_from_elsewhere_and_say_what_charts_show(comparison: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in comparison.tags}
    assert all(source.startswith("data:image/") for source in comparison.attributes("src"))
    assert all(given.get("alt") for tag, given in comparison.tags if tag == "img")
    check_tables(comparison)


def test_the_same_comparison_gives_the_same_bytes(compared: Compared, tmp_path: Path) -> None:
    pages = [report.write_comparison(compared(tmp_path / name / "out")).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_curves_are_means_with_one_deviation_to_either_side(compared: Compared, tmp_path: Path) -> None:
    folder = compared(tmp_path / "out")
    for seed, shift in ((0, 0.0), (1, 1.0)):
        run = compared_run(folder, "plain", seed)
        run.write_rows([{"epoch": epoch, "final": 50 + epoch + shift} for epoch in range(3)])
    _, rows = read_comparison(folder, folder / "report.html")
    told: dict[str, Any] = {}

    def keep(curves: Any, *, title: str, **_: Any) -> Any:
        told[title] = curves[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metadistiller.report._rows.lines", keep)
        overlays(rows[:1])
    curve = told["Final accuracy"]
    assert (curve.series.epochs, curve.series.values) == ((1, 2, 3), (50.5, 51.5, 52.5))
    assert curve.low == pytest.approx([value - math.sqrt(0.5) for value in curve.series.values])
    assert curve.high == pytest.approx([value + math.sqrt(0.5) for value in curve.series.values])
    assert "Accuracy of the ensemble" not in told


def test_a_row_without_a_finished_run_stands_there_empty(compared: Compared, tmp_path: Path) -> None:
    def empty(values: dict[str, Any]) -> None:
        values["rows"][1]["finals"] = {}

    page = Page(report.write_comparison(edited(compared(tmp_path / "out"), empty)))
    assert table_below(page, "Method", "Seeds")[1] == ["dsn", "0", "–", "–", "–"]


def test_a_teacher_is_not_compared(compared: Compared, tmp_path: Path) -> None:
    def teach(values: dict[str, Any]) -> None:
        values["rows"][1]["teaches"] = True

    page = Page(report.write_comparison(edited(compared(tmp_path / "out"), teach)))
    assert table_below(page, "Method", "Seeds")[1][4] == "–"
    assert not [table for table in page.tables if table[0][0] == "Row minus column"]
    assert page.sections[""].strip().startswith("2 methods on")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("rows"),
        lambda values: values.pop("command"),
        lambda values: values["rows"].append(3),
        lambda values: values["rows"].append(values["rows"][0]),
        lambda values: values["rows"][0].update(finals=[80.0]),
        lambda values: values["rows"][0].update(finals={"first": 80.0}),
        lambda values: values["rows"][0].update(method=".."),
    ],
)
def test_a_damaged_comparison_is_named(compared: Compared, tmp_path: Path, change: Any) -> None:
    with pytest.raises(CheckpointError, match=r"compare\.json does not hold"):
        report.write_comparison(edited(compared(tmp_path / "out"), change))


def test_a_comparison_at_odds_with_its_runs_is_refused(compared: Compared, tmp_path: Path) -> None:
    folder = compared(tmp_path / "out")
    run = compared_run(folder, "dsn", 1)
    values = read_json(folder / "compare.json")
    values["rows"][1]["finals"]["1"] = 12.5
    write_json(folder / "compare.json", values)
    with pytest.raises(CheckpointError, match=r"gives 12\.5 % for 'dsn' with seed 1.*84\.0"):
        report.write_comparison(folder)
    run.evaluation.write_text("[]")
    with pytest.raises(CheckpointError, match=re.escape(str(run.evaluation))):
        report.write_comparison(folder)


def test_a_comparison_of_nothing_is_refused(compared: Compared, tmp_path: Path) -> None:
    def empty(values: dict[str, Any]) -> None:
        for row in values["rows"]:
            row["finals"] = {}

    with pytest.raises(CheckpointError, match="no finished run to compare"):
        report.write_comparison(edited(compared(tmp_path / "out"), empty))
    with pytest.raises(CheckpointError, match=r"is no comparison \(no compare\.json in it\)"):
        report.write_comparison(tmp_path)


# -- runs that stand for themselves -----------------------------------------------------------------------------------


def test_runs_stand_side_by_side_in_the_order_given(fake_run: FakeRun, tmp_path: Path) -> None:
    odd = "<i>odd & javascript:x"
    first = fake_run(path=tmp_path / "runs" / odd)
    report.write(first.path)
    second = fake_run(path=tmp_path / "runs" / "plain", exits=[], final=800)
    path = report.write_several([first.path, second.path])
    assert path.resolve() == tmp_path / "runs" / "report.html"
    page = Page(path)
    check_tables(page)
    assert page.sections[""].strip().startswith("2 runs side by side")
    assert list(page.sections)[-3:] == [f"Run 1: {odd}", "Run 2: plain", "Environment"]
    rows = table_below(page, "Run", "Method")
    assert [(row[0], row[1], row[4], row[6][:5], row[7][:5]) for row in rows] == [
        (odd, "md", "0", "85.30", "87.10"),
        ("plain", "plain", "0", "80.00", "–"),
    ]
    assert ["method", "md", "plain"] in table_below(page, "Setting")
    assert "i" not in {tag for tag, _ in page.tags}
    links = [link for link in page.attributes("href") if not link.startswith("#")]
    assert set(links) == {"%3Ci%3Eodd%20%26%20javascript%3Ax/report.html"}
    before = path.read_bytes()
    assert report.write_several([first.path, second.path]).read_bytes() == before


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(fake_run: FakeRun, tmp_path: Path) -> None:
    folders = [fake_run(path=tmp_path / name / "s0", exits=[]).path for name in ("a", "b")]
    assert [row.name for row in read_several(folders, tmp_path / "x.html")] == ["a/s0", "b/s0"]


def test_what_cannot_be_one_page_is_refused(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run(exits=[])
    other = fake_run(path=tmp_path / "other", exits=[])
    inside = fake_run(path=other.path / "teacher", exits=[])
    with pytest.raises(ConfigError, match="is named twice"):
        report.write_several([run.path, run.path / ".." / run.path.name], tmp_path / "page.html")
    with pytest.raises(ConfigError, match=r"take a name that ends in \.html"):
        report.write_several([run.path, other.path], other.config)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        report.write(run.path, tmp_path / "folder.html")
    sibling = fake_run(path=other.path / "sibling", exits=[])
    with pytest.raises(ConfigError, match=r"page of that folder itself.*--out"):
        report.write_several([inside.path, sibling.path])
    with pytest.raises(CheckpointError, match="is no run folder"):
        report.write_several([run.path, tmp_path / "nowhere"], tmp_path / "page.html")
    assert "optim" in RunFolder(other.path).read_config()


def test_the_command_knows_what_a_folder_is(
    fake_run: FakeRun, compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Any] = []
    for name in ("write", "write_several", "write_comparison", "write_evidence"):
        monkeypatch.setattr(report, name, lambda *given, name=name: asked.append((name, *given)) or "page")
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "ledger.json").write_text('{"format": 1, "runs": []}')
    folder, run = str(compared(tmp_path / "out")), str(fake_run(exits=[]).path)
    for words in ([run], [run, "--out", "x.html"], [run, run], [folder], [str(tmp_path / "ledger")]):
        assert cli.main(["report", *words]) == 0
    assert asked == [
        ("write", run, None),
        ("write", run, "x.html"),
        ("write_several", [run, run], None),
        ("write_comparison", folder, None),
        ("write_evidence", str(tmp_path / "ledger")),
    ]
    assert capsys.readouterr().out.split() == ["page"] * 5
    assert cli.main(["report", str(tmp_path / "ledger"), "--out", "x.html"]) == 2
    assert "leave --out x.html out" in capsys.readouterr().err
