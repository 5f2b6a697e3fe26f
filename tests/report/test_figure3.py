"""Fig. 3: what is drawn, in which rows, and that the same values give the same bytes."""

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from metadistiller.errors import ConfigError
from metadistiller.records import RunFolder, read_json
from metadistiller.report import check_figure3, write_figure3
from metadistiller.report._charts import drawing
from metadistiller.report._exhibits import rows_of, shown_classes, stages_of
from metadistiller.report._figure3 import _figure
from metadistiller.report._reading import read_entropy, read_exhibits
from metadistiller.report._run import Exhibit
from metadistiller.report._tables import entropy

FakeRun = Callable[..., RunFolder]
Values = dict[str, Any]

SVG = "{http://www.w3.org/2000/svg}"
NAMES = {"method": "metadistiller", "network": "resnet18", "data": "digits", "seed": 0, "epochs": 12}


@pytest.fixture
def values(fake_run: FakeRun) -> Values:
    return values_of(fake_run())


def values_of(folder: RunFolder) -> Values:
    return NAMES | read_json(folder.soft_targets)


def without(values: Values, *kinds: str) -> Values:
    """As a method writes them that has no soft targets, or no exits either."""
    nothing: Values = {kind: [] for kind in kinds}
    images = [image | nothing for image in values["images"]]
    return values | {"images": images, "entropy": values["entropy"] | nothing}


def exhibit(*, label: int, final: tuple[float, ...], **others: Any) -> Exhibit:
    return Exhibit(**{"png": "", "index": 0, "label": label, "targets": (), "exits": (), "final": final, **others})


def texts(path: Path) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]


# Rows


@pytest.mark.parametrize("num_classes", [2, 9, 10, 11, 100])
@pytest.mark.parametrize("label", [0, 1])
def test_rows_hold_the_true_class_and_all_mass(num_classes: int, label: int) -> None:
    final = tuple((index + 1) / (num_classes * (num_classes + 1) / 2) for index in range(num_classes))
    classes = [f"class {index}" for index in range(num_classes)]
    rows = rows_of(exhibit(label=label, final=final), classes)
    assert rows.names[rows.true] == classes[label]
    assert sum(rows.pick(final)) == pytest.approx(1)
    assert len(rows.pick(final)) == len(rows.names) <= 11
    assert rows.pick(final)[rows.true] == final[label]
    # Rounding may leave a rest below nothing.
    assert min(rows.pick([1.0000001 * (index == label) for index in range(num_classes)])) == 0


def test_of_many_classes_the_nine_largest_and_the_true_one_are_shown() -> None:
    final = tuple(index / 4950 for index in range(100))
    shown = shown_classes(exhibit(label=3, targets=(final,), final=final))
    assert shown == [*range(99, 90, -1), 3]
    assert shown_classes(exhibit(label=95, targets=(final,), final=final)) == shown[:-1]
    assert rows_of(exhibit(label=3, final=final), ["x"] * 100).names[-1] == "90 others"


def test_what_only_an_exit_says_has_a_row_too() -> None:
    final = tuple(0.1 * (index < 10) for index in range(50))
    exit_ = tuple(float(index == 40) for index in range(50))
    assert 40 not in shown_classes(exhibit(label=0, final=final))
    assert shown_classes(exhibit(label=0, final=final, exits=(exit_,)))[0] == 40


def test_few_classes_are_all_shown_in_their_order() -> None:
    final = tuple(index / 45 for index in range(10))
    rows = rows_of(exhibit(label=3, final=final), list("abcdefghij"))
    assert rows.names == tuple("abcdefghij")
    assert rows.pick(final) == list(final)


def test_a_stage_has_what_the_method_has() -> None:
    final, other = (0.75, 0.25), (0.5, 0.5)
    for kinds, expected in (
        ({"targets": (other,), "exits": (final,)}, [["Stage 1, T", "Stage 1, S"], ["Final output"]]),
        ({"exits": (final,)}, [["Stage 1, S"], ["Final output"]]),
        ({"targets": (other,)}, [["Stage 1, T"], ["Final output"]]),
        ({}, [["Final output"]]),
    ):
        shown = exhibit(label=0, final=final, **kinds)
        stages = stages_of(shown, rows_of(shown, ["a", "b"]))
        assert [[distribution.name for distribution in stage.distributions] for stage in stages] == expected
        outlined = [shown.outlined for stage in stages for shown in stage.distributions]
        assert outlined == [name.endswith("S") for names in expected for name in names]
    both = exhibit(label=0, final=final, targets=(other,), exits=(final,))
    assert stages_of(both, rows_of(both, ["a", "b"]))[0].note == "entropy: T 0.69, S 0.56 nats"


# The figure


def test_every_number_of_the_figure_is_in_the_values(values: Values, tmp_path: Path) -> None:
    found = texts(write_figure3(values, tmp_path / "figure.svg"))
    assert "metadistiller on resnet18, digits, after 12 epochs" in found
    assert "Mean entropy over the 1,000 test images" in found
    assert "all classes alike: 2.30" in found
    for image in values["images"]:
        assert f"test image {image['index']}" in found
        assert f"entropy: {entropy(tuple(image['final'])):.2f} nats" in found
        for target, exit_ in zip(image["targets"], image["exits"], strict=True):
            assert f"entropy: T {entropy(tuple(target)):.2f}, S {entropy(tuple(exit_)):.2f} nats" in found
    assert found.count("Final output") == len(values["images"]) == 3
    for key in ("T: soft target", "S: the exit's own output", "final output", "true class"):
        assert key in found


def test_without_soft_targets_the_exits_are_shown_and_without_exits_the_final_output(
    values: Values, tmp_path: Path
) -> None:
    found = texts(write_figure3(without(values, "targets"), tmp_path / "exits.svg"))
    assert "T: soft target" not in found
    assert not [text for text in found if re.search(r"\bT \d", text)]
    assert [text for text in found if re.fullmatch(r"entropy: S \d\.\d\d nats", text)]
    found = texts(write_figure3(without(values, "targets", "exits"), tmp_path / "final.svg"))
    assert not [text for text in found if "tage" in text or "S:" in text]
    assert "Mean entropy over the 1,000 test images: 0.12 nats" in found


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_same_values_give_the_same_bytes(values: Values, tmp_path: Path, suffix: str) -> None:
    del values["images"][1:]
    first, again = (tmp_path / f"{name}{suffix}" for name in ("first", "again"))
    write_figure3(values, first)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        write_figure3(values, again)
    assert first.read_bytes() == again.read_bytes()
    assert b"Date" not in first.read_bytes()
    values["entropy"]["final"] = 1.0
    assert write_figure3(values, again).read_bytes() != first.read_bytes()


def test_places_are_rounded_since_the_last_bits_of_a_layout_are_not_always_the_same(values: Values) -> None:
    exhibits, means = read_exhibits(values, num_classes=10), read_entropy(values)
    assert means is not None
    with drawing():
        figure = _figure(exhibits, means, values["classes"], "title")
        places = [axes.get_position(original=True).extents.tolist() for axes in figure.axes]
        FigureCanvasAgg(figure).draw()
    assert len(places) == 3 * 5 + 1
    assert places == [[round(end, 6) for end in place] for place in places]
    assert places == [axes.get_position(original=True).extents.tolist() for axes in figure.axes], "drawing moved them"


def test_each_suffix_is_its_format(values: Values, tmp_path: Path) -> None:
    del values["images"][1:]
    starts = {".svg": b"<?xml", ".png": b"\x89PNG\r\n\x1a\n", ".PDF": b"%PDF-"}
    for suffix, start in starts.items():
        path = write_figure3(values, tmp_path / "new" / f"figure{suffix}")
        assert path.read_bytes().startswith(start)
    width, height = Image.open(io.BytesIO((tmp_path / "new" / "figure.png").read_bytes())).size
    assert width > 1000 < 2 * height
    # Nothing is half written, and nothing else.
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["figure.PDF", "figure.png", "figure.svg"]


@pytest.mark.parametrize("num_exits", [0, 1, 7])
def test_any_number_of_exits_and_any_name_can_be_drawn(fake_run: FakeRun, num_exits: int, tmp_path: Path) -> None:
    """Warnings are errors here: of a layout that does not fit, above all."""
    long = "a name that is far longer than any chart has room for, and then some " * 3
    names = ["<script>&", r"$\frac{", long, "", "熊猫 ظبي", "bell\x07", "x" * 60, "y\u202ez"]
    classes = [*names, *(f"class {index}" for index in range(40))]
    values = values_of(fake_run(exits=[700] * num_exits, classes=classes))
    values["data"] = long
    found = texts(write_figure3(values, tmp_path / "figure.svg"))
    assert "<script>&" in found
    assert "39 others" in found
    assert not [text for text in found if "\x07" in text or "\u202e" in text]
    write_figure3(values, tmp_path / "figure.png")


def test_drawing_needs_no_torch(values: Values, tmp_path: Path) -> None:
    code = (
        "import json, sys; from metadistiller import report\n"
        f"report.write_figure3(json.load(sys.stdin), {str(tmp_path / 'figure.png')!r})\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(values), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "svg", ".svg"])
def test_another_suffix_is_refused(values: Values, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"take a name that ends in \.svg, \.png, \.pdf"):
        write_figure3(values, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_and_too_many_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(ConfigError, match=r"a\.svg is a folder; name a file"):
        check_figure3(tmp_path / "a.svg", num_images=1)
    check_figure3(tmp_path / "b.svg", num_images=20)
    with pytest.raises(ConfigError, match="number of images is 21; a figure holds at most 20"):
        check_figure3(tmp_path / "b.svg", num_images=21)
