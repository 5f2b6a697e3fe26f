"""What the pages take to be there, made small; and runs made short without changing what a page says."""

import io
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from metadistiller import assemble, compare, report, reproduce, settings
from metadistiller.config import Choice, Config
from metadistiller.data import Dataset
from metadistiller.data._cifar_files import KINDS
from metadistiller.lookup import FAMILIES, find
from metadistiller.records import RunFolder

CLASSES = ("cat", "dog")
EACH = 8  # images of each class
# Options of any data source that make it cheap.
_BATCH = {"cifar100": 50, "digits": 20}  # of two steps; photographs are few
_SMALL: Mapping[str, Any] = {"size": 64, "resize": 64, "workers": 1, "train_per_class": 4}


def picture(seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(40, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def make(place: Path) -> None:
    """Every data set that a page names, below `place`."""
    pictures = [(name, picture(100 * label + n)) for label, name in enumerate(CLASSES) for n in range(EACH)]
    lines = ["path,label"]
    for number, (name, png) in enumerate(pictures):
        part = "val" if number % 4 == 0 else "train"
        for folder in (f"photos/{name}", f"FOLDER/{part}/{name}"):
            (place / folder).mkdir(parents=True, exist_ok=True)
            (place / folder / f"{number}.png").write_bytes(png)
        lines.append(f"photos/{name}/{number}.png,{name}")
    (place / "image.jpg").write_bytes(picture(1000))
    (place / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _parquet(place / "parquet", pictures)
    _chunks(place / "chunks", pictures)
    _cifar100(place / "data")


def _parquet(folder: Path, pictures: list[tuple[str, bytes]]) -> None:
    folder.mkdir()
    images = pyarrow.array([{"bytes": png, "path": "x.png"} for _, png in pictures])
    table = pyarrow.table({"image": images, "label": [name for name, _ in pictures]})
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")


def _chunks(folder: Path, pictures: list[tuple[str, bytes]]) -> None:
    writer = pytest.importorskip("litdata.streaming.writer").BinaryWriter(str(folder), chunk_size=4)
    for number, (name, png) in enumerate(pictures):
        writer[number] = {"image": png, "label": name}
    writer.done()
    writer.merge()


def _cifar100(folder: Path) -> None:
    """The official binary version with one image of a class."""
    version = next(kind for kind in KINDS if kind.name == "cifar100").binary
    (folder / version.folder).mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for file in (*version.train, *version.test):
        labels = np.arange(100, dtype=np.uint8)[:, None]
        pixels = drawn.integers(256, size=(100, 3 * 32 * 32), dtype=np.uint8)
        rows = np.concatenate([np.full((100, 1), 19, np.uint8), labels, pixels], axis=1)
        (folder / version.folder / file).write_bytes(rows.tobytes())
    (folder / version.folder / version.names).write_text("", encoding="utf-8")


def short(config: Config) -> Config:
    """The same run for one epoch, on few small images; a short one stays as it is."""
    data = _with(
        config.data, FAMILIES["data"], {**_SMALL, **({"train_per_class": 1} if "100" in config.data.name else {})}
    )
    model = (
        _with(config.model, FAMILIES["model"], {"width": 8}) if config.model.name.startswith("resnet") else config.model
    )
    return replace(
        config,
        data=data,
        model=model,
        epochs=1,
        batch_size=_BATCH.get(config.data.name, 4),
        optim=replace(config.optim, warmup_epochs=0.0),
        device="cpu",
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )


def _with(choice: Choice, family: tuple[str, str], options: Mapping[str, Any]) -> Choice:
    member = find(*family, choice.name)
    known = {field.name for field in fields(member.options)} - set(member.preset)
    return replace(choice, options={**choice.options, **{key: options[key] for key in options if key in known}})


class Drawn:
    """The report, whose pages of runs are left empty: they take three quarters of a short run's time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(report, name)

    def write(self, folder: Path) -> None:
        RunFolder(folder).report.write_text("", encoding="utf-8")


def shorten(monkeypatch: pytest.MonkeyPatch, *, reports: bool = False) -> None:
    """Every run from here on is a short one, in this process; `metadistiller report` draws even so."""
    parse, train, load = settings.parse, assemble.train, assemble.load_data

    def parsed(*args: Any, **given: Any) -> settings.Settings:
        found = parse(*args, **given)
        return replace(found, config=short(found.config))

    def trained(config: Config, *args: Any, **given: Any) -> assemble.Trained:
        return train(short(config), *args, **given)

    def loaded(data: Choice) -> Dataset:
        found = load(data)
        few = torch.arange(0, len(found.test), max(1, len(found.test) // 100))
        return replace(found, test=found.test.take(few))

    def here(folder: Any, config: Config, **_: Any) -> None:
        train(config, folder.path, quiet=True)

    monkeypatch.setattr(settings, "parse", parsed)
    monkeypatch.setattr(assemble, "train", trained)
    monkeypatch.setattr(assemble, "load_data", loaded)
    # The page would be served until somebody ends it; tests/browser does that.
    monkeypatch.setattr("metadistiller.app.serve", lambda runs, **_: [RunFolder.open(run) for run in runs])
    if not reports:
        monkeypatch.setattr(assemble, "report", Drawn())
    for module in (compare, reproduce):
        monkeypatch.setattr(module, "train_apart", here)


def copied(world: Path, place: Path, *, without: list[str]) -> Path:
    """A folder of a page's own with everything in it, but for what the page makes itself."""
    shutil.copytree(world, place)
    for path in filter(Path.exists, (place / name for name in without)):
        shutil.rmtree(path)
    return place
