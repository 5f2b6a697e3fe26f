"""What differs from a recipe is said of the recipe as it is now, of runs too that were entered when it was another."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import cli, entering, recipe
from metadistiller.building import with_members, written_out
from metadistiller.config import Choice, Config
from metadistiller.entering import enter, renew
from metadistiller.errors import LedgerError, UnknownName
from metadistiller.ledger import Record, append, read, rewrite

from .made import RECORD, SETTINGS, finished

ROOT = Path(__file__).resolve().parents[2]

Change = Callable[[Callable[[Config], Config]], None]


@pytest.fixture
def change_recipes(monkeypatch: pytest.MonkeyPatch) -> Change:
    """From now on the recipes are what this makes of them."""

    def change(to: Callable[[Config], Config]) -> None:
        monkeypatch.setattr(entering, "recipe", lambda name: to(recipe(name)))

    return change


def option(family: str, **options: Any) -> Callable[[Config], Config]:
    """Recipes with these options of their own member."""

    def changed(config: Config) -> Config:
        chosen: Choice = getattr(config, family)
        other: dict[str, Any] = {family: replace(chosen, options={**chosen.options, **options})}
        return replace(config, **other)

    return changed


DIGITS = written_out(recipe("digits"))
NAMES = {"data": DIGITS.data.name, "model": DIGITS.model.name, "method": DIGITS.method.name, "teacher": None}


def test_a_recipe_that_has_changed_since_takes_no_run_for_one_of_its_own(
    path: Path, tmp_path: Path, change_recipes: Change
) -> None:
    enter(finished(tmp_path / "old", DIGITS), path.parent, started_from="digits", command="c")
    (old,) = read(path)
    assert old.overrides == {}
    all_outputs = option("method", heldout="all")
    change_recipes(all_outputs)
    enter(
        finished(tmp_path / "new", replace(all_outputs(DIGITS), seed=1)),
        path.parent,
        started_from="digits",
        command="c",
    )
    assert [(record.seed, record.overrides) for record in read(path)] == [(0, {"method.heldout": "final"}), (1, {})]
    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert "heldout=final" in page
    # And back: nothing of it is lost but what the recipe says.
    change_recipes(lambda config: config)
    assert renew(path.parent) == []
    first, second = read(path)
    assert (first, second.overrides) == (old, {"method.heldout": "all"})


CHANGES: dict[str, tuple[Callable[[Config], Config], dict[str, Any]]] = {
    "a setting": (lambda config: replace(config, label_smoothing=0.1), {"label_smoothing": 0.0}),
    "of the optimiser": (
        lambda config: replace(config, optim=replace(config.optim, momentum=0.5)),
        {"optim.momentum": DIGITS.optim.momentum},
    ),
    "an option": (option("model", width=8), {"model.width": DIGITS.model.options["width"]}),
    "the length": (lambda config: replace(config, epochs=7), {}),
    "the seed": (lambda config: replace(config, seed=7), {}),
    "the method": (lambda config: with_members(config, {**NAMES, "method": "dsn"}), {"method.name": "metadistiller"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_recipe_changes_the_run_says_what_it_did(
    path: Path, tmp_path: Path, change_recipes: Change, what: str
) -> None:
    change, expected = CHANGES[what]
    enter(finished(tmp_path / "run", DIGITS), path.parent, started_from="digits", command="c")
    (before,) = read(path)
    change_recipes(change)
    renew(path.parent)
    (after,) = read(path)
    epochs = change(recipe("digits")).epochs
    assert after == replace(before, overrides=expected, paper_epochs=epochs)


def test_one_s_own_options_stay_beside_those_of_a_recipe_that_has_changed(
    path: Path, tmp_path: Path, change_recipes: Change
) -> None:
    run = finished(tmp_path / "run", option("method", heldout="all", alpha=0.25)(DIGITS))
    enter(run, path.parent, started_from="digits", command="c")
    change_recipes(option("method", heldout="all"))
    renew(path.parent)
    assert [record.overrides for record in read(path)] == [{"method.alpha": 0.25}]


def test_a_file_that_says_what_is_true_is_not_touched(path: Path, tmp_path: Path) -> None:
    enter(finished(tmp_path / "run", DIGITS), path.parent, started_from="digits", command="c")
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert renew(path.parent) == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert renew(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


LEFT: dict[str, tuple[Record, str]] = {
    "no settings": (replace(RECORD, settings=None), "it was entered before a run's settings were"),
    "a recipe of somebody's": (replace(RECORD, recipe="mine", settings=SETTINGS), "unknown recipe 'mine'"),
    "a method that is not here": (
        replace(RECORD, settings={**SETTINGS, "method": {"name": "future"}}),
        "unknown method 'future'",
    ),
    "an option that is not here": (
        replace(RECORD, settings={**SETTINGS, "method": {"name": "kd", "older": 1}}),
        "the run has method.older, the recipe has no such setting",
    ),
}


@pytest.mark.parametrize("why", LEFT)
def test_what_this_version_does_not_know_stays_and_is_told(
    path: Path, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record, message = LEFT[why]
    append(path, record)
    before = path.read_bytes()
    (told,) = renew(path.parent)
    assert message in told
    assert f"{record.recipe} kd, seed 0, 2026-11-22T14:03:05Z: " in told
    assert path.read_bytes() == before
    assert cli.main(["report", str(path.parent)]) == 0
    assert f"told as when it was entered: {told}" in capsys.readouterr().out


def test_two_runs_never_become_one(path: Path) -> None:
    for alpha in (0.5, 0.7):
        append(path, replace(RECORD, overrides={"method.alpha": alpha}))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="would have two runs of cifar100_resnet18_kd with seed 0 over 200 epochs"):
        rewrite(path, lambda record: replace(record, overrides={}))
    assert path.read_bytes() == before


def test_the_ledger_of_this_project_is_of_today_s_recipes(tmp_path: Path) -> None:
    """Who changes a recipe runs `metadistiller report evidence`."""
    source = ROOT / "evidence" / "ledger.json"
    path = tmp_path / "ledger.json"
    path.write_bytes(source.read_bytes())
    assert renew(tmp_path) == []
    assert json.loads(path.read_text()) == json.loads(source.read_text())
    # Every record can tell, also after the next change.
    assert all(record.settings is not None for record in read(path))


def test_an_unknown_recipe_is_no_reason_to_enter_nothing(path: Path, tmp_path: Path) -> None:
    append(path, replace(RECORD, recipe="mine", settings=SETTINGS))
    enter(finished(tmp_path / "run", DIGITS), path.parent, started_from="digits", command="c")
    assert [record.recipe for record in read(path)] == ["mine", "digits"]
    with pytest.raises(UnknownName):
        enter(finished(tmp_path / "other", DIGITS), path.parent, started_from="mine", command="c")
