"""A ledger that cannot be read is one clear error and stays as it is; what could not be read is not written."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller.errors import LedgerError
from metadistiller.ledger import Record, append, read
from metadistiller.ledger._record import MOST_EPOCHS
from metadistiller.records import write_json

from .made import FIRST, IMAGES, LAST, RECORD, SETTINGS


def runs(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The ledger with its one record changed in place."""

    def changed(whole: dict[str, Any]) -> Any:
        change(whole["runs"][0])
        return whole

    return changed


def of(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return runs(lambda run: run.__setitem__(key, value))


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a newer format": (lambda whole: {**whole, "format": 5}, "has format 5, this version reads 1 to 4"),
    "no format": (lambda whole: {"runs": whole["runs"]}, "no ledger: it has no format"),
    "a list": (lambda whole: whole["runs"], "no ledger"),
    "no runs": (lambda whole: {"format": 4}, "not format and a list of runs"),
    "runs by name": (lambda whole: {"format": 4, "runs": {}}, "not format and a list of runs"),
    "more beside the runs": (lambda whole: {**whole, "notes": ""}, r"holds \['format', 'notes', 'runs'\]"),
    "a number as a run": (lambda whole: {"format": 4, "runs": [3]}, "run 0 is 3, not a record"),
    "an unknown field": (of("top5", 90.0), "run 0 has unknown keys: top5"),
    "a missing field": (runs(lambda run: run.pop("seconds")), "run 0 has missing keys: seconds"),
    "a field of the wrong type": (of("epochs", "200"), "run 0: epochs is '200'"),
    "no epoch at all": (of("epochs", 0), "run 0: epochs is 0"),
    "a truth for a number": (of("seed", True), "run 0: seed is True"),
    "more than everything": (of("final", 100.5), r"run 0: final is 100\.5"),
    "an exit that is none": (of("exits", [50.0, None]), "run 0: exits is"),
    "a negative time": (of("seconds", -1), "run 0: seconds is -1"),
    "another date": (of("date", "22 November"), "run 0: date is '22 November'"),
    "half a machine": (runs(lambda run: run["hardware"].pop("torch")), "run 0, hardware has missing keys: torch"),
    "an unknown of the teacher": (of("teacher", {"name": "x"}), "run 0, teacher has unknown keys: name"),
    "no epoch of targets": (of("targets", []), r"run 0: targets is \[\]"),
    "too many epochs of targets": (of("targets", [asdict(FIRST)] * (MOST_EPOCHS + 1)), "run 0: targets is"),
    "half an epoch of targets": (of("targets", [{"epoch": 0}]), "run 0, targets 0 has missing keys: accuracy"),
    **{
        f"targets with {key} {value!r}": (of("targets", [{**asdict(FIRST), key: value}]), f"targets 0: {key} is")
        for key, value in (
            ("epoch", 200),
            ("epoch", -1),
            ("generator_steps", 1.5),
            ("accuracy", [1.0, 100.1]),
            ("accuracy", []),
            ("accuracy", None),
            ("entropy", [-0.1, 1.0]),
            ("entropy", [1.0, math.inf]),
            ("confidence", [0.5, 1.1]),
            ("heldout_loss", -1.0),
            ("target_gain", [0.0, "much"]),
            ("label_gain", [0.0, math.inf]),
            ("target_alignment", [0.0, -1.1]),
            ("label_alignment", [True, 0.0]),
        )
    },
    "targets of another number of exits": (
        of("targets", [{**asdict(FIRST), "entropy": [1.0]}]),
        "targets 0 are not of 2 exits",
    ),
    "an epoch of targets twice": (of("targets", [asdict(FIRST)] * 2), "targets 1: epoch is 0"),
    "updates taken back": (
        of("targets", [asdict(FIRST), {**asdict(LAST), "generator_steps": 390}]),
        "generator_steps become fewer",
    ),
    "half of what the images were": (
        of("images", {"train": 1, "test": 1}),
        "run 0, images has missing keys: classes, test_sha256, train_sha256",
    ),
    **{
        f"images with {key} {value!r}": (of("images", {**asdict(IMAGES), key: value}), f"images: {key} is")
        for key, value in (
            ("train", 0),
            ("test", "10000"),
            ("classes", 2.5),
            ("train_sha256", "0" * 63),
            ("test_sha256", None),
        )
    },
    **{
        f"settings {told}": (of("settings", value), "run 0: settings is")
        for told, value in (
            ("that are none", {}),
            ("without a network", {key: value for key, value in SETTINGS.items() if key != "model"}),
            ("with a method without a name", {**SETTINGS, "method": {"alpha": 0.7}}),
            ("with a teacher without a name", {**SETTINGS, "teacher": {}}),
            ("that do not say whether there was a teacher", {**SETTINGS, "teacher": 0}),
        )
    },
    "another's id": (of("id", "0" * 16), "run 0 has the id 0000000000000000, its settings make"),
    "another's settings": (of("seed", 7), "run 0 has the id"),
    "a run twice": (lambda whole: {"format": 4, "runs": whole["runs"] * 2}, "run 1 is there already"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ledger_is_one_clear_error_and_stays_as_it_is(path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    append(path, RECORD)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    before = path.read_bytes()
    for ask in (lambda: read(path), lambda: append(path, replace(RECORD, seed=1))):
        with pytest.raises(LedgerError, match=message) as caught:
            ask()
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "runs": [', b"\xff\xfe", b"null"])
def test_half_a_file_is_one_clear_error(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for ask in (lambda: read(path), lambda: append(path, RECORD)):
        with pytest.raises(LedgerError, match=re.escape(str(path))):
            ask()
        assert path.read_bytes() == content


@pytest.mark.parametrize("change", [{"final": float("nan")}, {"seconds": float("inf")}, {"seed": -1}, {"date": "now"}])
def test_what_could_not_be_read_is_not_written(path: Path, change: dict[str, Any]) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="the record of cifar100_resnet18_kd"):
        append(path, replace(RECORD, **{"seed": 1, **change}))
    assert path.read_bytes() == before


def test_every_field_is_checked_when_it_is_read(path: Path) -> None:
    for key in ("id", *(field.name for field in fields(Record))):
        path.unlink(missing_ok=True)
        append(path, RECORD)
        whole = json.loads(path.read_text())
        whole["runs"][0][key] = [[]]
        write_json(path, whole)
        with pytest.raises(LedgerError, match=f"run 0: {key} is"):
            read(path)
