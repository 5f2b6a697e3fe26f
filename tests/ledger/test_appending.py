"""What is entered is read, once, by several at once, and never at the cost of what was there."""

import fcntl
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import ledger, recipe
from metadistiller.config import Optim
from metadistiller.errors import LedgerError
from metadistiller.ledger import Record, _file, append, identity, locked, read
from metadistiller.records import write_json

from .made import FIRST, IMAGES, LAST, RECORD, SETTINGS


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, teacher=None, commit=None, exits=(), overrides={}),
        replace(RECORD, targets=(FIRST,)),
        replace(RECORD, targets=(FIRST, LAST)),
        replace(RECORD, images=IMAGES),
        replace(RECORD, settings=SETTINGS),
        replace(RECORD, settings={**SETTINGS, "teacher": None}),
    ],
)
def test_what_is_entered_is_read(path: Path, record: Record) -> None:
    assert read(path) == []
    assert append(path, record) is True
    assert read(path) == [record]


def test_records_stay_in_the_order_of_entry(path: Path) -> None:
    records = [replace(RECORD, seed=seed) for seed in (3, 0, 2)]
    assert [append(path, record) for record in records] == [True] * 3
    assert read(path) == records
    assert json.loads(path.read_text())["format"] == 4


def test_a_ledger_has_a_line_for_each_run(path: Path) -> None:
    append(path, RECORD)
    before = path.read_text().splitlines()
    append(path, replace(RECORD, seed=RECORD.seed + 1))
    after = path.read_text().splitlines()
    # And no other line changes but for the comma that JSON wants.
    assert after == [*before[:-3], f"{before[-3]},", after[-3], *before[-2:]]
    assert [json.loads(line.removesuffix(",")) for line in after[-4:-2]] == json.loads(path.read_text())["runs"]


@pytest.mark.parametrize(
    ("old", "later"), [(1, ("targets", "images", "settings")), (2, ("images", "settings")), (3, ("settings",))]
)
def test_a_ledger_of_an_older_format_is_read_and_goes_on_in_the_newest(
    path: Path, old: int, later: tuple[str, ...]
) -> None:
    append(path, RECORD)
    whole = json.loads(path.read_text())
    for key in later:
        del whole["runs"][0][key]
    write_json(path, {**whole, "format": old})
    assert read(path) == [RECORD]
    newer = replace(RECORD, seed=1, targets=(FIRST, LAST), images=IMAGES, settings=SETTINGS)
    assert append(path, newer)
    assert json.loads(path.read_text())["format"] == 4
    assert read(path) == [RECORD, newer]
    # A file of an older format that has what came later is none.
    write_json(path, {**json.loads(path.read_text()), "format": old})
    with pytest.raises(LedgerError, match=f"run 0 has unknown keys: {', '.join(sorted(later))}"):
        read(path)


MORE = [replace(IMAGES, **{key: getattr(IMAGES, key) + 1}) for key in ("train", "test", "classes")]
OTHERS = [*MORE, *(replace(IMAGES, **{key: "f" * 64}) for key in ("train_sha256", "test_sha256"))]


@pytest.mark.parametrize("images", OTHERS)
def test_two_folders_of_one_name_are_never_one_setting(path: Path, images: ledger.Images) -> None:
    own = {"data.root": "photos", "data.size": 96}
    mine = replace(RECORD, data="folder", overrides=own, images=IMAGES)
    append(path, mine)
    before = path.read_bytes()
    # Also as a run of another data set's recipe, which names the data.
    named = {**own, "data.name": "folder"}
    for change in ({"seed": 1}, {"recipe": "cifar10", "overrides": named}, {"epochs": 3}):
        assert append(path, replace(mine, **change))
        path.write_bytes(before)
        with pytest.raises(LedgerError, match=r"nobody could tell them apart; give the data another name"):
            append(path, replace(mine, images=images, **change))
        assert path.read_bytes() == before
    # Another name, another setting of the data, or a run that does not say what it had.
    for other in (
        replace(mine, images=images, overrides={**own, "data.root": "birds"}),
        replace(mine, images=images, overrides={**own, "data.train_per_class": 5}),
        replace(mine, images=images, data="table", seed=2),
        replace(mine, images=None, seed=1),
    ):
        assert append(path, other)


@pytest.mark.parametrize("data", ["cifar10", "hf:ethz/food101"])
def test_copies_of_a_public_data_set_may_have_it_in_another_order(path: Path, data: str) -> None:
    mine = replace(RECORD, data=data, images=IMAGES)
    append(path, mine)
    for seed, images in enumerate(OTHERS[len(MORE) :], 1):
        assert append(path, replace(mine, images=images, seed=seed))
    for images in MORE:
        with pytest.raises(LedgerError, match="nobody could tell them apart"):
            append(path, replace(mine, images=images, seed=9))


def test_the_same_run_again_changes_nothing(path: Path) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    again = replace(RECORD, seconds=1.0, date="2027-01-01T00:00:00Z", commit=None)
    assert append(path, again) is False
    assert path.read_bytes() == before


def test_the_same_folder_is_one_run_to_a_version_with_more_settings(path: Path) -> None:
    """Which it has as null, and a copy of it another date; a run that took another time is another all the same."""
    append(path, RECORD)
    before = path.read_bytes()
    newer = replace(RECORD, overrides={**RECORD.overrides, "method.new": None, "new": None}, targets=(FIRST, LAST))
    assert newer.id != RECORD.id
    for same in (newer, replace(newer, date="2027-01-01T00:00:00Z")):
        assert append(path, same) is False
        assert path.read_bytes() == before
    others = [{"peak_memory_mb": 1.0}, {"seconds": 1.0}, {"overrides": {}}, {"seed": 1}, {"commit": None}]
    for other in others:
        path.write_bytes(before)
        assert append(path, replace(newer, **other))


@pytest.mark.parametrize("change", [{"final": 77.32}, {"ensemble": 77.0}, {"exits": (61.5, 70.0)}, {"exits": ()}])
def test_the_same_run_with_another_outcome_is_refused(path: Path, change: dict[str, Any]) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    message = r"already has cifar100_resnet18_kd .* on the same hardware, .* 2026-11-22T14:03:05Z .* 77\.31.*"
    with pytest.raises(LedgerError, match=f"{message}; or keep this one in a ledger of its own, --evidence OTHER"):
        append(path, replace(RECORD, date="2027-01-01T00:00:00Z", **change))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "elsewhere", [{"device": "cuda (NVIDIA H200)"}, {"torch": "2.13.0"}, {"threads": 64}, {"precision": "bfloat16"}]
)
def test_the_same_run_on_other_hardware_is_another_run(path: Path, elsewhere: dict[str, Any]) -> None:
    """Its bits are others; who runs the command of somebody's ledger again must be able to enter what came out."""
    other = replace(RECORD, hardware=replace(RECORD.hardware, **elsewhere), final=77.32)
    assert [append(path, RECORD), append(path, other)] == [True, True]
    assert read(path) == [RECORD, other]
    with pytest.raises(LedgerError, match="on the same hardware"):
        append(path, replace(other, final=77.33))


# Which run it is


def test_the_id_is_the_same_for_ever() -> None:
    """Of the SHA-256 of the list that docs/run-folder.md states, and of the like for the record above."""
    listed = (
        '["cifar100_resnet18_plain",0,200,{},null,'
        '{"device":"cpu (x86_64)","precision":"float32","threads":2,"torch":"2.12.0"}]'
    )
    found = identity("cifar100_resnet18_plain", seed=0, epochs=200, overrides={}, hardware=RECORD.hardware)
    assert found == hashlib.sha256(listed.encode()).hexdigest()[:16] == "af30489c4ac76180"
    assert RECORD.id == "d159152328226c81"


def test_the_id_says_what_was_run_and_not_what_came_out() -> None:
    differs: dict[str, Any] = {
        "recipe": "cifar100_resnet18_fitnet",
        "seed": 1,
        "epochs": 3,
        "overrides": {},
        "teacher": replace(RECORD.teacher, epochs=3) if RECORD.teacher else None,
        "hardware": replace(RECORD.hardware, device="cuda"),
    }
    ids = {replace(RECORD, **{key: value}).id for key, value in differs.items()}
    assert len(ids | {RECORD.id}) == 7
    same: dict[str, Any] = {
        "final": 1.0,
        "seconds": 1.0,
        "command": "",
        "commit": None,
        "package": "9",
        "date": "2030-01-01T00:00:00Z",
        "overrides": dict(reversed(list(RECORD.overrides.items()))),
    }
    assert {replace(RECORD, **{key: value}).id for key, value in same.items()} == {RECORD.id}


# Several at once

APPEND_TWENTY = """
import sys, time
from dataclasses import replace
from pathlib import Path
from metadistiller.ledger import append, read
path, first = Path(sys.argv[1]), int(sys.argv[2])
(record,) = read(path)
path.with_name(f"ready{first}").touch()
while not path.with_name("go").exists():
    time.sleep(0.001)
for seed in range(first, first + 20):
    append(path, replace(record, seed=seed))
"""


def test_two_processes_enter_twenty_runs_each_at_once(path: Path) -> None:
    append(path, replace(RECORD, seed=999))
    words = [sys.executable, "-c", APPEND_TWENTY, str(path)]
    processes = [subprocess.Popen([*words, str(first)], stderr=subprocess.PIPE) for first in (0, 100)]
    while not all(path.with_name(f"ready{first}").exists() for first in (0, 100)):
        assert all(process.poll() is None for process in processes), "one did not even begin"
        time.sleep(0.01)
    path.with_name("go").touch()
    assert [process.communicate()[1] for process in processes] == [b"", b""]
    assert sorted(record.seed for record in read(path)) == [*range(20), *range(100, 120), 999]


def test_a_ledger_that_somebody_holds_is_waited_for_and_then_said_to_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, RECORD)
    before = path.read_bytes()
    monkeypatch.setattr(_file, "WAIT_SECONDS", 0.1)
    with path.with_name(".ledger.json.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(LedgerError, match=r"held by another process for 0\.1 s"):
            append(path, replace(RECORD, seed=1))
        assert time.monotonic() - began >= 0.1
    assert path.read_bytes() == before
    assert append(path, replace(RECORD, seed=1)) is True


def test_the_ledger_can_be_held_while_something_else_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, RECORD)
    monkeypatch.setattr(_file, "WAIT_SECONDS", 0.1)
    with locked(str(path)):
        assert read(path) == [RECORD], "reading takes no lock"
        # Not reentrant, and said to be held instead of waiting for ever.
        for ask in (lambda: append(path, replace(RECORD, seed=1)), lambda: locked(path).__enter__()):
            with pytest.raises(LedgerError, match=r"held by another process for 0\.1 s"):
                ask()
    assert append(path, replace(RECORD, seed=1)) is True


# What there is to import


def test_the_names_of_the_package_are_what_is_there() -> None:
    assert sorted(ledger.__all__) == ledger.__all__
    assert all(hasattr(ledger, name) for name in ledger.__all__)
    assert set(RECORD.as_dict()) == {"id", *asdict(RECORD)}
    assert Optim() == recipe("cifar100_resnet18_kd").optim
