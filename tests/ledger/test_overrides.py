"""What of a run's settings is an override: all that differs from the recipe, whatever the run was started from."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from metadistiller import recipe
from metadistiller.building import with_members, written_out
from metadistiller.config import Choice, Config, Teacher
from metadistiller.entering import enter
from metadistiller.errors import CheckpointError, LedgerError
from metadistiller.ledger import read, record_of
from metadistiller.ledger._run import BEFORE, NOT_OVERRIDES
from metadistiller.records import RunFolder, write_text

from .made import NAMES_OF_KD, finished

OTHER_VALUES: dict[str, Any] = {
    "batch_size": 64,
    "label_smoothing": 0.1,
    "pretrained": True,
    "weights": "begin.safetensors",
    "freeze": ["layer1"],
    "class_weights": "inverse",
    "sampling": "balanced",
    "heldout_share": 0.1,
    "batch_statistics": "synchronised",
    "ensemble": "probabilities",
    "seed": 5,
    "epochs": 3,
    "device": "cuda:1",
    "precision": "bfloat16",
    "memory_format": "channels_last",
    "threads": 3,
    "evaluate_every": 7,
    "eval_batch_size": 9,
    "checkpoint_every_steps": 11,
    "keep_checkpoints": 13,
}


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_settings_that_differ_are_overrides_unless_they_only_say_where_and_how(
    tmp_path: Path, kd: Config, key: str
) -> None:
    run = finished(tmp_path / "run", replace(kd, **{key: OTHER_VALUES[key]}))
    expected = {} if key in NOT_OVERRIDES else {key: OTHER_VALUES[key]}
    assert record_of(run, "r", kd).overrides == expected


def test_every_setting_has_a_case_above() -> None:
    families = {"data", "model", "method", "teacher", "optim", "augment"}
    assert set(OTHER_VALUES) == {field.name for field in fields(Config)} - families


def test_options_that_differ_are_overrides_by_their_dotted_names(tmp_path: Path, kd: Config) -> None:
    assert kd.teacher is not None
    data = {**kd.data.options, "root": "/home/somebody/data", "train_per_class": 50}
    config = replace(
        kd,
        data=Choice(name="cifar100", options=data),
        model=Choice(name="resnet18", options={**kd.model.options, "width": 16}),
        method=Choice(name="kd", options={**kd.method.options, "temperature": 2.0}),
        teacher=Teacher(name="resnet152", options={**kd.teacher.options, "width": 8}, run="/tmp/teacher"),
        optim=replace(kd.optim, milestones=(0.5, 0.75)),
        augment=replace(kd.augment, mixup=0.2),
    )
    found = record_of(finished(tmp_path / "run", config), "r", kd)
    assert found.overrides == {
        "augment.mixup": 0.2,
        "data.train_per_class": 50,
        "method.temperature": 2.0,
        "model.width": 16,
        "optim.milestones": [0.5, 0.75],
        "teacher.width": 8,
    }


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "method": ({"method": ("dsn", {"exit_weight": 0.5}), "teacher": None}, {"teacher": None}),
    "model": ({"model": ("resnet10", {"width": 16})}, {}),
    "data": ({"data": ("digits", {"train_per_class": 10})}, {}),
    "teacher": ({"teacher": ("resnet10", {"width": 16})}, {}),
}


@pytest.mark.parametrize("family", OTHERS)
def test_another_member_is_an_override_with_what_is_not_its_own_default(
    tmp_path: Path, kd: Config, family: str
) -> None:
    """So that it says the same whatever recipe the command started from."""
    members, also = OTHERS[family]
    names = NAMES_OF_KD | {role: chosen and chosen[0] for role, chosen in members.items()}
    own = written_out(with_members(kd, names))
    run = finished(tmp_path / "plain", own)
    name, options = members[family]
    assert record_of(run, "r", kd, own=own).overrides == {f"{family}.name": name, **also}
    kind = Teacher if family == "teacher" else Choice
    changed = written_out(replace(with_members(kd, names), **{family: kind(name=name, options=options)}))
    expected = {f"{family}.name": name, **{f"{family}.{key}": value for key, value in options.items()}, **also}
    run = finished(tmp_path / "changed", changed)
    assert record_of(run, "r", kd, own=own).overrides == expected
    # A setting that the run is older than.
    values = run.read_config()
    (option,) = options
    del values[family][option]
    write_text(run.config, yaml.safe_dump(values))
    unknown = {} if getattr(own, family).options[option] is None else {f"{family}.{option}": None}
    assert record_of(run, "r", kd, own=own).overrides == {f"{family}.name": name, **also, **unknown}
    with pytest.raises(LedgerError, match=f"the run has {family} '{name}', and nobody says what that is by default"):
        record_of(run, "r", kd)


def test_the_same_run_is_the_same_whatever_it_is_started_from(path: Path, tmp_path: Path) -> None:
    """As `compare --methods plain,metadistiller` and as the method's own recipe: entering knows what goes with what."""
    config = written_out(recipe("cifar100_wrn16_1_dsn"))
    run = finished(tmp_path / "run", config)
    for started_from in ("cifar100_wrn16_1_dsn", "cifar100_wrn16_1_metadistiller", "cifar100_wrn16_1_plain"):
        enter(run, path.parent, started_from=started_from, command="c")
    assert [record.overrides for record in read(path)] == [{}, {"method.name": "dsn"}, {"method.name": "dsn"}]
    write_text(run.config, "data: 3")
    with pytest.raises(CheckpointError, match="does not name what the run was made of"):
        enter(run, path.parent, started_from="digits", command="c")


@pytest.mark.parametrize("name", ["cifar100_wrn16_1_metadistiller", "imagenet_resnet18_dsn", "cifar100_resnet50_dml"])
def test_a_run_of_the_recipe_itself_has_no_overrides(tmp_path: Path, name: str) -> None:
    config = written_out(recipe(name))
    assert record_of(finished(tmp_path / "run", config), name, config).overrides == {}


def test_a_recipe_without_its_defaults_is_refused(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    with pytest.raises(LedgerError, match=r"the recipe has no such setting; write the recipe's defaults out"):
        record_of(run, "r", recipe("cifar100_resnet18_kd"))


# Settings that a run is older than


def forget(run: RunFolder, name: str) -> Any:
    """Make a run older than a setting; returns what it was."""
    values = run.read_config()
    *families, option = name.split(".")
    within = values[families[0]] if families else values
    forgotten = within.pop(option)
    write_text(run.config, yaml.safe_dump(values))
    return forgotten


@pytest.mark.parametrize("name", BEFORE)
def test_a_setting_that_came_later_is_what_was_done_before_it(tmp_path: Path, name: str) -> None:
    config = written_out(
        Config(data=Choice(name="digits"), model=Choice(name="resnet10"), method=Choice(name="metadistiller"))
    )
    run = finished(tmp_path / "run", config)
    # Before means that its default changed nothing.
    assert forget(run, name) == BEFORE[name]
    assert record_of(run, "r", config).overrides == {}
    # A recipe that has come to another value since was not what the run did.
    family, dot, option = name.partition(".")
    if dot:
        chosen: Choice = getattr(config, family)
        other = replace(config, **{family: replace(chosen, options={**chosen.options, option: "other"})})
    else:
        other = replace(config, **{name: 0.5})
    assert record_of(run, "r", other).overrides == {name: BEFORE[name]}


@pytest.mark.parametrize("name", BEFORE)
def test_a_setting_that_came_later_is_what_was_done_before_it_of_another_member_too(
    tmp_path: Path, kd: Config, name: str
) -> None:
    names = {"data": "cifar100", "model": "resnet18", "method": "metadistiller", "teacher": None}
    own = written_out(with_members(kd, names))
    run = finished(tmp_path / "run", own)
    forget(run, name)
    assert record_of(run, "r", kd, own=own).overrides == {"method.name": "metadistiller", "teacher": None}


def test_a_setting_that_an_older_run_does_not_know_is_an_override(tmp_path: Path, kd: Config) -> None:
    run = finished(tmp_path / "run", kd)
    values = run.read_config()
    del values["label_smoothing"], values["method"]["alpha"]
    write_text(run.config, yaml.safe_dump(values))
    assert record_of(run, "r", kd).overrides == {"label_smoothing": None, "method.alpha": None}
