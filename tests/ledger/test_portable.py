"""Paths in a record: they say which data and which file it was, and nothing of the machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from metadistiller import recipe
from metadistiller.building import with_members, written_out
from metadistiller.config import Choice, Config
from metadistiller.ledger import append, read, record_of
from metadistiller.ledger._record import SAME_EVERYWHERE
from metadistiller.ledger._run import portable
from metadistiller.lookup import FAMILIES, table

from .made import NAMES_OF_KD, TAUGHT, finished


def test_every_data_set_is_told_by_its_name_or_by_its_folder() -> None:
    by_folder = {"folder", "parquet", "stream", "table"}
    assert set(table(FAMILIES["data"][0])) == SAME_EVERYWHERE | by_folder


@pytest.mark.parametrize("name", ["folder", "parquet", "stream", "table"])
@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("/home/somebody/photos/", "photos"),
        ("photos", "photos"),
        ("runs/photos", "photos"),
        ("~/my photos", "my photos"),
        ("/data/my photos, old", "my photos, old"),
        ("file:///home/somebody/photos", "photos"),
        ("file:photos", "photos"),
        (".", "FOLDER"),
        ("..", "FOLDER"),
        ("/", "FOLDER"),
        ("~", "FOLDER"),
    ],
)
def test_of_one_s_own_data_the_folder_says_which(tmp_path: Path, name: str, root: str, told: str) -> None:
    config = written_out(recipe(name))
    run = finished(
        tmp_path / "run", replace(config, data=Choice(name=name, options=config.data.options | {"root": root}))
    )
    assert record_of(run, name, config).overrides == {"data.root": told}


@pytest.mark.parametrize("name", [*sorted(SAME_EVERYWHERE), "hf:ethz/food101"])
def test_a_data_set_of_a_name_is_the_same_wherever_it_lies(tmp_path: Path, kd: Config, name: str) -> None:
    config = written_out(with_members(kd, {**NAMES_OF_KD, "data": name}))
    run = finished(
        tmp_path / "run", replace(config, data=Choice(name=name, options=config.data.options | {"root": "/a"}))
    )
    assert record_of(run, "r", config).overrides == {}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/somebody/a.safetensors", "a.safetensors"),
        ("runs/a.safetensors", "a.safetensors"),
        ("a.safetensors", "a.safetensors"),
    ],
)
def test_two_files_to_begin_with_are_two_settings(tmp_path: Path, kd: Config, value: str, told: str) -> None:
    run = finished(tmp_path / "run", replace(kd, weights=value))
    assert record_of(run, "r", kd).overrides == {"weights": told}


def test_no_path_of_a_setting_is_told_wherever_it_stands(tmp_path: Path, kd: Config) -> None:
    options = {**kd.method.options, "alpha": ["/home/somebody/x", {"y": "see /home/somebody/z, and timm/a"}]}
    run = finished(tmp_path / "run", replace(kd, method=Choice(name="kd", options=options)))
    assert record_of(run, "r", kd).overrides == {"method.alpha": ["x", {"y": "see z, and timm/a"}]}


def test_nothing_of_the_machine_gets_into_the_file(path: Path, tmp_path: Path, kd: Config) -> None:
    data = {**kd.data.options, "root": "/home/somebody/data"}
    run = finished(tmp_path / "run", replace(kd, data=Choice(name="cifar100", options=data)), teacher=TAUGHT)
    append(path, record_of(run, "r", kd))
    append(path, record_of(run, "s", kd, command="metadistiller train --config=~/a.yaml '/my data' --x '[/a, /b]'"))
    text = path.read_text()
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert [record.command for record in read(path)] == [
        "metadistiller train r --data.root FOLDER --out FOLDER",
        "metadistiller train --config=FOLDER FOLDER --x '[FOLDER, FOLDER]'",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "metadistiller train cifar100 --data.root FOLDER",
        "metadistiller train --out runs/a --model torchvision/resnet18 --optim.milestones '[0.4, 0.7]'",
        "it's half a quote",
        "metadistiller train --data https://example.org/a",
        "metadistiller train --data file:a --x profile:/1",
        "",
    ],
)
def test_what_means_the_same_everywhere_stays(text: str) -> None:
    assert portable(text) == text


def test_a_path_goes_where_quotes_do_not_match_too() -> None:
    assert portable("it's /home/somebody/x here") == "it's FOLDER here"


@pytest.mark.parametrize(
    "address",
    [
        "file:///home/somebody/x",
        "file:/home/somebody/x",
        "FILE:///home/somebody/x",
        "file://~/somebody",
        "zip:///home/somebody/x.zip",
    ],
)
def test_a_path_goes_as_an_address_too(address: str) -> None:
    assert portable(f"train --data.root {address} --x={address} '[{address}, 1]' '{address} b'") == (
        "train --data.root FOLDER --x=FOLDER '[FOLDER, 1]' FOLDER"
    )
    assert portable(f"it's {address} here") == "it's FOLDER here"
