"""A run that goes on, or is asked, has the images that it began with, or says what is other about them."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metadistiller import assemble, compare
from metadistiller.app._shown import Shown
from metadistiller.building import load_data
from metadistiller.calibrating import calibrate
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine.same_images import check_same_images, check_same_test, known_images
from metadistiller.errors import DataError, Paused, RunError
from metadistiller.exporting import export
from metadistiller.prediction import predict
from metadistiller.records import RunFolder


@pytest.fixture
def config(tiny_config: Config, photos: Path) -> Config:
    """Two steps of plain training on eight of the photographs."""
    options = {"root": str(photos), "size": 16, "val_fraction": 0.5}
    plain = replace(tiny_config, data=Choice(name="folder", options=options), method=Choice(name="plain"))
    return replace(plain, batch_size=8, epochs=2)


def add(photos: Path) -> None:
    for number in (20, 21):
        Image.new("RGB", (24, 24), (number, 0, 0)).save(photos / "cat" / f"{number}.png")


def move(photos: Path) -> None:
    """As many images as before, of other classes."""
    for label, other in (("cat", "dog"), ("dog", "cat")):
        for number in range(3 if label == "cat" else 1):
            shutil.move(photos / label / f"{number}.png", photos / other / f"{label}-{number}.png")


def rename(photos: Path) -> None:
    (photos / "dog").rename(photos / "fox")


def reorder(photos: Path) -> None:
    """One file by another name: which images are held out follows from their order."""
    (photos / "cat" / "0.png").rename(photos / "cat" / "9.png")


CHANGES = [add, move, rename, reorder]


@pytest.mark.parametrize("change", CHANGES)
def test_contents_tell_one_folder_from_itself_before(change: Callable[[Path], None], config: Config) -> None:
    before = load_data(config.data).contents()
    assert load_data(config.data).contents() == before
    change(Path(str(config.data.options["root"])))
    assert load_data(config.data).contents() != before


def test_contents_are_counts_every_label_and_every_name() -> None:
    digits = load_data(Choice(name="digits", options={}))
    found = digits.contents()
    assert (found["train"], found["test"], found["classes"]) == (len(digits.train), len(digits.test), 10)
    for part in ("train", "test"):
        images = getattr(digits, part)
        labels = images.labels.clone()
        labels[-1] = (labels[-1] + 1) % 10
        for change in ({"labels": labels}, {"names": [f"{number}\udce4.png" for number in range(len(images))]}):
            other = replace(digits, **{part: replace(images, **change)}).contents()
            assert {key for key, value in other.items() if value != found[key]} == {f"{part}_sha256"}


def test_a_folder_that_has_moved_is_the_same(config: Config, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "elsewhere")
    moved = replace(config.data, options={**config.data.options, "root": str(tmp_path / "elsewhere")})
    found = load_data(moved).contents()
    (tmp_path / "elsewhere").rename(photos)
    assert found == load_data(config.data).contents()


def paused(config: Config, out: Path) -> RunFolder:
    """A run with one of its two epochs done."""
    with pytest.raises(Paused):
        assemble.train(config, out, quiet=True, stop=lambda: True)
    return RunFolder(out)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_its_own_images_alone(
    change: Callable[[Path], None], config: Config, photos: Path, tmp_path: Path
) -> None:
    folder = paused(config, tmp_path / "run")
    shutil.copytree(photos, tmp_path / "kept")
    change(photos)
    events = folder.events.read_bytes()
    with pytest.raises(DataError, match=r"not those that .*run was begun with \(8 training and 8 test images of 2"):
        assemble.resume(folder.path, quiet=True)
    assert folder.events.read_bytes() == events
    shutil.rmtree(photos)
    (tmp_path / "kept").rename(photos)
    assert assemble.resume(folder.path, quiet=True).result["epochs"] == 2
    starts = [event["images"] for event in folder.read_events() if event["event"] in ("start", "resume")]
    assert starts == [load_data(config.data).contents()] * 2


def test_a_trained_run_is_asked_about_its_own_images_alone(config: Config, photos: Path, tmp_path: Path) -> None:
    dsn = replace(config, method=Choice(name="dsn"))
    run = assemble.train(dsn, tmp_path / "run", quiet=True).folder
    reorder(photos)
    asked: list[Callable[[Path], Any]] = [assemble.evaluate_run, assemble.figure3, calibrate, Shown]
    asked.append(lambda place: export(place, format="onnx", int8=True))
    for ask in asked:
        with pytest.raises(DataError, match=r"2 classes as then, of other names.*put those back, or start a new run"):
            ask(run)


def listed(photos: Path, table: Path, *more: str) -> list[str]:
    """All photographs in a table, and further rows."""
    rows = [f"{path},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    table.write_text("\n".join(["image,label", *rows, *more]) + "\n")
    return rows


@pytest.fixture
def of_a_table(config: Config, photos: Path, tmp_path: Path) -> Config:
    """Whose means are constants, so that a network is shown the same where the data set grows."""
    listed(photos, tmp_path / "labels.csv")
    data = Choice(name="table", options={"root": str(tmp_path / "labels.csv"), "size": 16, "resize": 16})
    return replace(config, data=data, epochs=1)


def test_a_trained_run_answers_for_what_is_shown_in_the_same_way(
    of_a_table: Config, photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    run = assemble.train(of_a_table, tmp_path / "run", quiet=True).folder
    picture = str(photos / "cat" / "0.png")
    (before,) = predict(run, [picture]).answers
    rows = listed(photos, table)
    listed(photos, table, rows[0])
    assert predict(run, [picture]).answers == [before]
    assert export(run).proof.count > 0
    with pytest.raises(DataError, match="the images are not those"):
        assemble.evaluate_run(run)
    listed(photos, table, f"{picture},fox", f"{picture},fox")
    for ask in (export, lambda place: predict(place, [picture])):
        with pytest.raises(DataError, match=r"of 2 classes then, .* of 3 classes now"):
            ask(run)
    assert predict(run / "model.safetensors", [picture]).answers[0].name == before.name


def test_a_teacher_was_tested_on_the_same_images(of_a_table: Config, photos: Path, tmp_path: Path) -> None:
    teacher = assemble.train(of_a_table, tmp_path / "teacher", quiet=True).folder
    named = Teacher(name="resnet10", options={"width": 4}, run=str(teacher))
    student = replace(of_a_table, method=Choice(name="kd"), teacher=named)
    assemble.train(student, tmp_path / "taught", quiet=True)
    rows = listed(photos, tmp_path / "labels.csv")
    listed(photos, tmp_path / "labels.csv", *rows)
    with pytest.raises(DataError, match=r"the teacher .* was not tested on the images"):
        assemble.train(student, tmp_path / "student", quiet=True)
    assert not (tmp_path / "student").exists()


def test_a_student_may_have_fewer_training_images_than_its_teacher(tmp_path: Path) -> None:
    few, more = (load_data(Choice(name="digits", options={"train_per_class": count})) for count in (3, 4))
    teacher = RunFolder(tmp_path)
    teacher.append_event("start", images=more.contents())
    check_same_test(few, teacher)
    with pytest.raises(DataError, match=r"40 training .* then, 30 training"):
        check_same_images(few, teacher)


def test_a_run_from_before_the_record_goes_on_and_says_nothing(config: Config, tmp_path: Path) -> None:
    folder = paused(config, tmp_path / "run")
    events = [json.loads(line) for line in folder.events.read_text().splitlines()]
    for event in events:
        event.pop("images", None)
    folder.events.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert assemble.resume(folder.path, quiet=True).result["epochs"] == 2
    assert known_images(folder) is None, "what it began with is not what it has now"


def test_a_comparison_is_of_runs_on_the_same_images(
    config: Config, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: replace(config, method=Choice(name=name)) for name in ("plain", "dsn")}
    pairs = compare.plan(rows, [0, 1], tmp_path / "runs")
    begun: list[str] = []

    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        begun.append(f"{config.method.name} {config.seed}")
        assemble.train(config, folder.path, quiet=True)
        if len(begun) == 2:
            add(photos)

    monkeypatch.setattr(compare, "train_apart", train)
    entered: list[RunFolder] = []

    def run(pairs: Sequence[compare.Pair], said: str) -> dict[str, int]:
        with pytest.raises(RunError, match=said):
            compare.run(pairs, tmp_path / "runs", tell=lambda line: None, command="c", enter=entered.append)
        found = json.loads((tmp_path / "runs" / "compare.json").read_text())["rows"]
        return {row["method"]: row["n"] for row in found}

    first, other = pairs[0].folder, pairs[2].folder
    said = rf"{other} was trained on other images than {first}"
    # Nothing more is trained once it shows, in this sitting.
    assert run(pairs, said) == {"plain": 1, "dsn": 1}
    assert begun == ["plain 0", "dsn 0", "plain 1"]
    # What was there first stands, wherever a new row is put; and it is not blamed.
    rows = {"self_distillation": replace(config, method=Choice(name="self_distillation")), **rows}
    more = compare.plan(rows, [0], tmp_path / "runs")
    said = rf"{more[0].folder} was trained on other images than {first}"
    assert run(more, said) == {"self_distillation": 0, "plain": 1, "dsn": 1}
    assert {each.path for each in entered} == {first.path, pairs[1].folder.path}
