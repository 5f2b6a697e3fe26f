"""A run that goes on, or is asked, has the images that it began with, or says what is other about them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metadistiller import assemble, compare
from metadistiller.building import load_data
from metadistiller.config import Choice, Config
from metadistiller.engine.same_images import check_same_images, known_images
from metadistiller.errors import DataError, Paused, RunError
from metadistiller.prediction import predict
from metadistiller.ranks import Ranks
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


CHANGES = [add, move, rename]


@pytest.mark.parametrize("change", CHANGES)
def test_contents_tell_one_folder_from_itself_before(change: Callable[[Path], None], config: Config) -> None:
    before = load_data(config.data).contents()
    assert load_data(config.data).contents() == before
    change(Path(str(config.data.options["root"])))
    assert load_data(config.data).contents() != before


def test_contents_are_counts_and_every_label() -> None:
    digits = load_data(Choice(name="digits", options={}))
    found = digits.contents()
    assert (found["train"], found["test"], found["classes"]) == (len(digits.train), len(digits.test), 10)
    for part in ("train", "test"):
        images = getattr(digits, part)
        labels = images.labels.clone()
        labels[-1] = (labels[-1] + 1) % 10
        other = replace(digits, **{part: replace(images, labels=labels)})
        assert {key for key, value in other.contents().items() if value != found[key]} == {"labels"}


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


def test_a_trained_run_answers_for_its_own_images_alone(config: Config, photos: Path, tmp_path: Path) -> None:
    run = assemble.train(config, tmp_path / "run", quiet=True).folder
    picture = str(photos / "cat" / "0.png")
    (before,) = predict(RunFolder(run).weights, [picture]).answers
    rename(photos)
    for ask in (assemble.evaluate_run, assemble.figure3, lambda place: predict(place, [picture])):
        with pytest.raises(DataError, match=r"2 classes, of other classes or labels\).*model.safetensors answers"):
            ask(run)
    (after,) = predict(RunFolder(run).weights, [picture]).answers
    assert after == before, "as the message promises"


def test_a_run_from_before_the_record_goes_on(config: Config, tmp_path: Path) -> None:
    folder = paused(config, tmp_path / "run")
    events = [json.loads(line) for line in folder.events.read_text().splitlines()]
    for event in events:
        event.pop("images", None)
    folder.events.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert known_images(folder) is None
    assert assemble.resume(folder.path, quiet=True).result["epochs"] == 2
    assert known_images(folder) == load_data(config.data).contents()


class Second(Ranks):
    """A rank that hears from the first what it has read."""

    def __init__(self, heard: Any) -> None:
        super().__init__()
        self._heard = heard

    def first_says(self, find: Callable[[], Any]) -> Any:
        return self._heard


def test_ranks_with_different_images_do_not_train_together(config: Config, tmp_path: Path) -> None:
    data, folder = load_data(config.data), RunFolder(tmp_path)
    here = data.contents()
    assert check_same_images(data, folder, Second([here, None])) == here
    with pytest.raises(DataError, match=r"ranks have read different images \(the first 9 training"):
        check_same_images(data, folder, Second([{**here, "train": 9}, None]))


def test_a_comparison_is_of_runs_on_the_same_images(
    config: Config, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: replace(config, method=Choice(name=name)) for name in ("plain", "dsn", "self_distillation")}
    pairs = compare.plan(rows, [0], tmp_path / "runs")

    def train(folder: RunFolder, config: Config, **limits: Any) -> None:
        assemble.train(config, folder.path, quiet=True)
        if config.method.name == "dsn":
            add(photos)

    monkeypatch.setattr(compare, "train_apart", train)
    entered: list[RunFolder] = []
    last = pairs[-1].folder
    said = rf"1 of 3 runs failed: {last} was trained on other images than {pairs[0].folder}"
    for _ in range(2):
        with pytest.raises(RunError, match=said):
            compare.run(pairs, tmp_path / "runs", tell=lambda line: None, command="c", enter=entered.append)
        found = json.loads((tmp_path / "runs" / "compare.json").read_text())["rows"]
        assert [(row["method"], row["n"]) for row in found] == [("plain", 1), ("dsn", 1), ("self_distillation", 0)]
    assert last not in entered
