"""`metadistiller check`: exactly what is wrong is named, whatever layout the images have, and nothing else."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from metadistiller import check
from metadistiller.checking import Checked
from metadistiller.cli import main
from metadistiller.config import Choice
from metadistiller.errors import ConfigError, UnknownName

SIDE = 16
Captured = pytest.CaptureFixture[str]


def picture(number: int, side: int = SIDE) -> Image.Image:
    """Noise that no other number has."""
    return Image.fromarray(np.random.default_rng(number).integers(256, size=(side, side, 3), dtype=np.uint8))


def encoded(number: int, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(number).save(file, form)
    return file.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def filled(root: Path, counts: dict[str, int]) -> Path:
    """`counts` images in each PART/CLASS, all of them different."""
    number = 0
    for place, count in counts.items():
        for _ in range(count):
            number += 1
            put(root / place / f"{number:04}.png", encoded(number))
    return root


def sound(root: Path) -> Path:
    return filled(root, {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})


def look(root: Path, **options: object) -> Checked:
    return check(Choice(name="folder", options={"root": str(root), "size": SIDE, **options}))


def of_kind(found: Checked, kind: str) -> set[str]:
    return {path for finding in (*found.problems, *found.notes) if finding.kind == kind for path in finding.paths}


def test_sound_data_is_counted_and_nothing_is_said(tmp_path: Path) -> None:
    found = look(sound(tmp_path))
    assert found.sound
    assert found.notes == ()
    train, test = found.parts["train"], found.parts["test"]
    assert (train.images, train.readable, test.images) == (8, 8, 4)
    assert train.per_class == {"cat": 4, "dog": 4}
    assert train.width == train.height == (SIDE, SIDE, SIDE)
    assert train.forms == {"PNG RGB": 8}


# Files that cannot be read


def header_of_a_bomb(png: bytes) -> bytes:
    """A PNG that says it is 10,000 x 10,000."""
    import zlib

    header = png[12:16] + (10_000).to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:20],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "a page of a web site": lambda data: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "words": lambda data: b"version https://git-lfs.github.com/spec/v1\n",
    "another format": lambda data: b"GIF89a" + data[6:],
    "a flipped bit in the pixels": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "a bomb": header_of_a_bomb,
    "without its signature": lambda data: data[8:],
}


def test_of_a_thousand_images_exactly_the_fifty_damaged_are_named(tmp_path: Path) -> None:
    filled(tmp_path, {"train/cat": 400, "train/dog": 400, "val/cat": 100, "val/dog": 100})
    everything = sorted(tmp_path.rglob("*.png"))
    bad = everything[7::20][:50]
    for place, path in enumerate(bad):
        path.write_bytes(list(DAMAGES.values())[place % len(DAMAGES)](path.read_bytes()))
    found = look(tmp_path)
    assert of_kind(found, "unreadable") == set(map(str, bad))
    assert len(found.problems) == 50
    assert sum(part.images - part.readable for part in found.parts.values()) == 50


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_problem_in_one_line(tmp_path: Path, damage: str) -> None:
    path = next(sound(tmp_path).rglob("*.png"))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    problem, *others = look(tmp_path).problems
    assert not others
    assert (problem.kind, problem.paths) == ("unreadable", (str(path),))
    assert "\n" not in problem.text


# The same image twice


def test_an_image_in_training_and_in_test_is_a_leak_in_whatever_form_it_was_saved(tmp_path: Path) -> None:
    sound(tmp_path)
    first = next((tmp_path / "train" / "cat").iterdir())
    with Image.open(first) as image:
        image.save(tmp_path / "val" / "cat" / "again.webp", lossless=True)
    found = look(tmp_path)
    assert [problem.kind for problem in found.problems] == ["leak"]
    assert of_kind(found, "leak") == {str(first), str(tmp_path / "val" / "cat" / "again.webp")}


def test_one_image_in_two_classes_is_a_contradiction_and_twice_in_one_is_only_said(tmp_path: Path) -> None:
    sound(tmp_path)
    first, second = sorted((tmp_path / "train" / "cat").iterdir())[:2]
    other = put(tmp_path / "train" / "dog" / "as_dog.png", first.read_bytes())
    again = put(tmp_path / "train" / "cat" / "again.png", second.read_bytes())
    found = look(tmp_path)
    assert [problem.kind for problem in found.problems] == ["contradiction"]
    assert of_kind(found, "contradiction") == {str(first), str(other)}
    assert of_kind(found, "repeated") == {str(first), str(other), str(second), str(again)}
    assert "2 train images" in next(note.text for note in found.notes if note.kind == "repeated")


def test_a_picture_turned_by_exif_is_the_same_as_one_that_stands(tmp_path: Path) -> None:
    sound(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 3
    picture(777).save(put(tmp_path / "train" / "cat" / "a.png", b""), exif=turned)
    picture(777).rotate(180).save(put(tmp_path / "val" / "cat" / "b.png", b""))
    assert [problem.kind for problem in look(tmp_path).problems] == ["leak"]


# What is good to know


def test_what_is_good_to_know_is_no_problem(tmp_path: Path) -> None:
    filled(tmp_path, {"train/cat": 13, "train/dog": 4, "val/cat": 2})
    os.mkdir(tmp_path / "val" / "dog")
    Image.new("RGB", (SIDE, SIDE), (7, 7, 7)).save(tmp_path / "train" / "dog" / "grey.png")
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(tmp_path / "val" / "dog" / "grey.png")
    (tmp_path / "train" / "dog" / "x.gif").write_bytes(b"GIF89a")
    picture(900, SIDE - 1).save(tmp_path / "train" / "dog" / "tiny.png")
    found = look(tmp_path)
    assert found.sound
    assert [note.kind for note in found.notes] == ["small", "uniform", "unread"]
    assert of_kind(found, "small") == {str(tmp_path / "train" / "dog" / "tiny.png")}
    assert of_kind(found, "uniform") == {str(tmp_path / part / "dog" / "grey.png") for part in ("train", "val")}
    assert of_kind(found, "unread") == {str(tmp_path / "train" / "dog" / "x.gif")}


@pytest.mark.parametrize(("cats", "said"), [(12, False), (13, True)])
def test_more_than_three_times_the_smallest_class_is_unbalanced(tmp_path: Path, cats: int, said: bool) -> None:
    found = look(filled(tmp_path, {"train/cat": cats, "train/dog": 4, "val/cat": 1, "val/dog": 1}))
    assert found.sound
    assert ("unbalanced" in [note.kind for note in found.notes]) is said


# Every layout


def test_a_table_names_each_file_that_is_missing(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path / f"{number}.png", encoded(number))
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(8)] + ["gone.png,a", "lost.png,b"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    found = check(tmp_path / "labels.csv")
    assert of_kind(found, "unreadable") == {str(tmp_path / name) for name in ("gone.png", "lost.png")}


def test_parquet_names_the_row(tmp_path: Path) -> None:
    images = [encoded(number) for number in range(8)]
    images[4] = images[4][:30]
    table = pyarrow.table({"image": images, "label": ["ab"[number % 2] for number in range(8)]})
    pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
    found = check(tmp_path)
    assert of_kind(found, "unreadable") == {f"{tmp_path / 'train-0.parquet'} row 5"}


def test_images_in_memory_are_looked_at_too() -> None:
    found = check("digits")
    assert found.sound
    assert (found.parts["train"].images, found.parts["test"].images) == (1000, 797)


def test_a_layout_that_cannot_be_meant_is_a_problem(tmp_path: Path) -> None:
    os.mkdir(sound(tmp_path) / "train" / "bird")
    found = look(tmp_path)
    assert [problem.kind for problem in found.problems] == ["layout"]
    assert "bird" in found.problems[0].text


def test_options_of_the_data_set_hold(tmp_path: Path) -> None:
    assert look(sound(tmp_path), train_per_class=2).parts["train"].images == 4
    with pytest.raises(UnknownName, match="max_pixel"):
        look(tmp_path, max_pixel=3)
    with pytest.raises(ConfigError, match="no such file or folder"):
        check(tmp_path / "nothing")


# The command


def run(words: list[str], capsys: Captured) -> tuple[int, str, str]:
    code = main(["check", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_exit_code_says_whether_something_is_wrong(tmp_path: Path, capsys: Captured) -> None:
    words = [str(sound(tmp_path)), f"--data.size={SIDE}"]
    code, out, err = run(words, capsys)
    assert (code, err) == (0, "")
    assert "nothing is wrong" in out
    path = next(tmp_path.rglob("*.png"))
    path.write_bytes(b"")
    code, out, err = run(words, capsys)
    assert code == 1
    assert str(path) in out
    assert err.startswith("error: ")
    assert "1 problems (unreadable)" in err


def test_json_is_all_of_it(tmp_path: Path, capsys: Captured) -> None:
    path = next(sound(tmp_path).rglob("*.png"))
    path.write_bytes(b"")
    code, out, _ = run([str(tmp_path), "--json", "--data.size", str(SIDE)], capsys)
    found = json.loads(out)
    assert code == 1
    assert not found["sound"]
    assert found["problems"][0]["paths"] == [str(path)]
    assert found == json.loads(json.dumps(look(tmp_path).as_dict()))


def test_names_of_files_give_a_terminal_no_orders(tmp_path: Path, capsys: Captured) -> None:
    sound(tmp_path)
    put(tmp_path / "train" / "cat" / "\x1b[2J\n\u202egnp.png", b"")
    code, out, _ = run([str(tmp_path), f"--data.size={SIDE}"], capsys)
    assert code == 1
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J\\n\\u202egnp.png" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--data.rot", "x"], "did you mean '--data.root'"),
        (["digits", "--epochs", "3"], "unknown option '--epochs'"),
        (["digits", "--data.root"], "needs a value"),
        (["nix"], "unknown data set 'nix'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], message: str, capsys: Captured) -> None:
    code, out, err = run(words, capsys)
    assert (code, out) == (2, "")
    assert message in err
