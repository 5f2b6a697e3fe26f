"""Photographs that a table lists: whose rows mean what, in any order, and every row that cannot be meant."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from metadistiller import assemble, recipe
from metadistiller.data import cifar, folder
from metadistiller.data.table import Options, build, recognises
from metadistiller.errors import ConfigError, DataError
from metadistiller.settings import parse

SIZE = 16


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Classes cat and dog, five images each, all different, of the size that is shown."""
    draw = torch.Generator().manual_seed(5)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            pixels = torch.randint(256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=draw)
            Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


ROWS = [(f"{name}/{number}.png", name) for name in ("cat", "dog") for number in range(5)]


def write(place: Path, rows: list[tuple[str, ...]], header: str = "path,label", name: str = "labels.csv") -> Path:
    mark = next((mark for mark in ";\t" if mark in header), ",")
    (place / name).write_text("\n".join([header, *(mark.join(row) for row in rows)]) + "\n", encoding="utf-8")
    return place / name


def options(path: Path, **given: object) -> Options:
    return Options(**{"root": str(path), "size": SIZE, "resize": SIZE, "workers": 1, **given})  # type: ignore[arg-type]


# Laws


def test_the_same_pixels_as_a_folder_of_classes(photos: Path) -> None:
    ours = build(options(write(photos, ROWS)))
    theirs = folder.build(folder.Options(root=str(photos), size=SIZE))
    assert ours.classes == theirs.classes == ("cat", "dog")
    for mine, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(mine.labels, other.labels)
        everything = torch.arange(len(other))
        assert torch.equal(mine.pixels(everything), other.pixels(everything))


def test_the_order_of_the_rows_does_not_number_the_classes(photos: Path) -> None:
    forward, backward = build(options(write(photos, ROWS))), build(options(write(photos, ROWS[::-1])))
    assert forward.classes == backward.classes == ("cat", "dog")
    assert torch.bincount(forward.train.labels).tolist() == torch.bincount(backward.train.labels).tolist() == [4, 4]


def test_whole_numbers_are_ordered_by_size(photos: Path) -> None:
    rows = [(path, "10" if label == "cat" else "9") for path, label in ROWS]
    assert build(options(write(photos, rows))).classes == ("9", "10")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Filename,Class", "labels.csv"),
        ("file;target", "labels.csv"),
        ("image\tcategory", "labels.tsv"),
        ("\ufeffpath,label", "labels.csv"),
    ],
)
def test_usual_names_marks_and_suffixes(photos: Path, header: str, name: str) -> None:
    path = write(photos, ROWS, header, name)
    assert recognises(path) == "table"
    assert build(options(path)).classes == ("cat", "dog")


def test_columns_and_folder_by_option(photos: Path, tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, "where,what")
    assert recognises(path) is None
    data = build(options(path, image_column="where", label_column="what", images=str(photos)))
    assert len(data.train) + len(data.test) == 10


def test_parquet(photos: Path) -> None:
    columns = {"path": [path for path, _ in ROWS], "label": [0 if label == "cat" else 1 for _, label in ROWS]}
    pyarrow.parquet.write_table(pyarrow.table(columns), photos / "labels.parquet")
    assert recognises(photos / "labels.parquet") == "table"
    data = build(options(photos / "labels.parquet"))
    assert (data.classes, len(data.train), len(data.test)) == (("0", "1"), 8, 2)


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_a_split_column(photos: Path, held_out: str) -> None:
    rows = [(path, label, held_out if path.endswith("4.png") else "train") for path, label in ROWS]
    data = build(options(write(photos, rows, "path,label,split")))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.test.paths == [str(photos / name / "4.png") for name in ("cat", "dog")]  # type: ignore[attr-defined]
    named = build(options(write(photos, rows, "path,label,fold"), split_column="fold"))
    assert (len(named.train), len(named.test)) == (8, 2)


def test_val_comes_before_test_in_a_split_column(photos: Path) -> None:
    parts = ["train", "train", "train", "val", "test"] * 2
    rows = [(*row, part) for row, part in zip(ROWS, parts, strict=True)]
    data = build(options(write(photos, rows, "path,label,split")))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.test.paths[0].endswith("3.png")  # type: ignore[attr-defined]


def test_a_second_table(photos: Path) -> None:
    first, second = write(photos, ROWS[:4] + ROWS[5:9]), write(photos, [ROWS[4], ROWS[9]], name="held_out.csv")
    data = build(options(first, test=str(second)))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.test.labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"only one of them can say what is held out"):
        build(options(first, test=str(second), split_column="label"))


def test_the_split_follows_its_seed_only(photos: Path) -> None:
    path = write(photos, ROWS)
    first, again, other = (build(options(path, split_seed=seed)).test.paths for seed in (3, 3, 4))  # type: ignore[attr-defined]
    assert first == again != other


def test_paths_from_anywhere_that_is_there(photos: Path, tmp_path: Path) -> None:
    absolute = [(str(photos / path), label) for path, label in ROWS[:5]]
    upwards = [(f"../photos/{path}", label) for path, label in ROWS[5:]]
    assert len(build(options(write(photos, absolute + upwards))).train) == 8
    assert not (tmp_path / "photos" / ".." / "cat").exists()
    with pytest.raises(DataError, match=r"row 11: there is no file .*\.\./cat/0\.png"):
        build(options(write(photos, [*ROWS, ("../cat/0.png", "cat")])))


def test_a_path_is_enough(photos: Path) -> None:
    path = write(photos, ROWS)
    assert cifar.recognises(path) is None
    assert folder.recognises(path) is None
    config = parse(["--data", str(path)], command="train").config
    assert (config.data.name, config.data.options["root"]) == ("table", str(path))
    assert config.epochs == recipe("table").epochs
    assert assemble.written_out(recipe("table")).data.options["size"] == 224


# What is refused


def test_a_table_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --data\.root or --data FILE\.csv"):
        build(Options())
    with pytest.raises(DataError, match=r"nowhere\.csv is not a file"):
        build(options(tmp_path / "nowhere.csv"))
    (tmp_path / "labels.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"labels\.txt is no \.csv, \.tsv, \.parquet"):
        build(options(tmp_path / "labels.txt"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("resize", 15),
        ("min_area", 0.0),
        ("val_fraction", 1.0),
        ("train_per_class", 0),
        ("workers", 0),
        ("max_pixels", 10),
        ("on_bad_image", "ignore"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} is '?{value}"):
        options(tmp_path, **{field: value})


@pytest.mark.parametrize(
    ("rows", "header", "given", "told"),
    [
        (
            ROWS,
            "path,label",
            {"label_column": "kind"},
            r"no column 'kind', as data\.label_column says; .*'path', 'label'",
        ),
        (ROWS, "path,label", {"split_column": "kind"}, r"no column 'kind', as data\.split_column says"),
        (ROWS, "path,kind", {}, r"no column of a usual name .*'path', 'kind': say which with --data\.label_column"),
        (ROWS, "where,label", {}, r"say which with --data\.image_column"),
        (ROWS, "path,path", {}, "two columns of one name"),
        ([*ROWS, ("cat/1.png", "")], "path,label", {}, "row 11 has no label"),
        ([*ROWS, ("cat/1.png",)], "path,label", {}, "row 11 has 1 values, but there are 2 columns"),
        ([*ROWS, ("", "cat")], "path,label", {}, "row 11 has '' for a path"),
        ([*ROWS, ("cat/9.png", "cat")], "path,label", {}, r"row 11: there is no file .*cat/9\.png .*1 of 11 rows"),
        ([*ROWS, ("cat/1.png", "a/b")], "path,label", {}, "label 'a/b', which is a path"),
        ([*ROWS, ("cat/1.png", "a\\b")], "path,label", {}, "which is a path or has control characters"),
        ([*ROWS, ("cat/1.png", "a\x07b")], "path,label", {}, "which is a path or has control characters"),
        ([*ROWS, ("cat/1.png", '"a\nb"')], "path,label", {}, "which is a path or has control characters"),
        ([*ROWS, ("cat/1.png", "owl")], "path,label", {}, "class 'owl' has 1 image; training and test need one each"),
        (ROWS[:5], "path,label", {}, "has 1 classes, 2 or more are needed"),
        ([], "path,label", {}, "has no rows"),
        ([(*row, "dev") for row in ROWS], "path,label,split", {}, "row 1 is of split 'dev'; take train, val"),
        ([(*row, "train") for row in ROWS], "path,label,split", {}, "has splits train only"),
    ],
)
def test_tables_that_cannot_be_meant(
    photos: Path, rows: list[tuple[str, ...]], header: str, given: dict[str, object], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        build(options(write(photos, rows, header), **given))


def test_a_class_that_training_lacks(photos: Path) -> None:
    second = write(photos, [("cat/4.png", "owl")], name="held_out.csv")
    with pytest.raises(DataError, match=r"held_out\.csv row 1 has class 'owl', but the training set has not"):
        build(options(write(photos, ROWS), test=str(second)))


def test_files_that_are_no_table(tmp_path: Path) -> None:
    for name, contents in (("a.csv", b"\xff\xfe\x00x"), ("b.parquet", b"PAR1"), ("c.csv", b"")):
        (tmp_path / name).write_bytes(contents)
        assert recognises(tmp_path / name) is None
        with pytest.raises(DataError, match=rf"{name} (cannot be read|is empty)"):
            build(options(tmp_path / name))


# Bad images


def test_a_bad_image_is_an_error_when_its_turn_comes(photos: Path) -> None:
    (photos / "cat" / "2.png").write_bytes(b"x")
    data = build(options(write(photos, ROWS), test=str(write(photos, ROWS[:1], name="held_out.csv"))))
    assert data.train.pixels(torch.tensor([0, 1])).shape == (2, 3, SIZE, SIZE)
    with pytest.raises(DataError, match=r"2\.png cannot be read"):
        data.train.pixels(torch.tensor([2]))


def test_bad_images_are_skipped_the_same_way_each_time(photos: Path) -> None:
    parts = ["train", "train", "train", "train", "test"] * 2
    path = write(photos, [(*row, part) for row, part in zip(ROWS, parts, strict=True)], "path,label,split")
    for bad in ("cat/0.png", "cat/3.png", "dog/3.png", "cat/4.png"):
        (photos / bad).write_bytes(b"x")
    (photos / "dog" / "2.png").unlink()
    found = []
    for workers in (1, 3):
        with pytest.warns(UserWarning, match=r"data\.on_bad_image is skip") as told:
            data = build(options(path, on_bad_image="skip", workers=workers))
        said = [str(warning.message) for warning in told]
        assert len(said) == 2
        assert "4 of 8 train images cannot be read" in said[0]
        assert "cat/0.png" in said[0]
        assert "the next sound ones take their places" in said[0]
        assert "1 of 2 test images cannot be read" in said[1]
        assert "they are left out" in said[1]
        found.append(data)
    first, again = (data.train.pixels(torch.arange(8)) for data in found)
    assert torch.equal(first, again)
    names = ["/".join(Path(name).parts[-2:]) for name in found[0].train.paths]  # type: ignore[attr-defined]
    assert names == [f"{name}.png" for name in ("cat/1", "cat/1", "cat/2", *["dog/0"] * 2, "dog/1", *["cat/1"] * 2)]
    assert found[0].train.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert found[0].test.labels.tolist() == [1]


def test_sound_images_are_as_they_are_without_a_word(photos: Path) -> None:
    path = write(photos, ROWS)
    skipping, usual = build(options(path, on_bad_image="skip")), build(options(path))
    assert skipping.train.paths == usual.train.paths  # type: ignore[attr-defined]


def test_nothing_is_left(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"8 of 8 train images cannot be read: .* and 3 more; none is left"):
        build(options(write(photos, ROWS), on_bad_image="skip"))
