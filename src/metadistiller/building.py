"""From a Config to data, network and method."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from .config import MACHINE, Choice, Config, Teacher
from .data import Dataset, seeded
from .errors import ConfigError
from .lookup import FAMILIES, Member, find
from .methods import Method, Setting
from .nn import Backbone, build_network, freeze
from .ranks import ALONE, Ranks
from .recipes import recipe
from .records import differences
from .settings import recipe_for


def load_data(data: Choice) -> Dataset:
    """The data set called `data.name`. Raises: UnknownName, ConfigError, DataError."""
    member = find(*FAMILIES["data"], data.name)
    dataset: Dataset = member.build(member.configure(data.options))
    return dataset


class Task(NamedTuple):
    """As much of a Dataset as a method is built from."""

    num_classes: int
    size: tuple[int, int]


def build_method(
    config: Config,
    dataset: Dataset | Task,
    teacher: Backbone | None = None,
    class_weights: torch.Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Method:
    """Network and method, with weights that depend on the seed alone.

    Args:
        teacher: the trained second network; None gives a method that has one its shapes only, which is enough to
            restore the method's own weights and to ask it for answers.
        class_weights: of every hard-label loss of training, (C,).
        ranks: which train it together.
    Raises: UnknownName, ConfigError, ShapeError.
    """
    with seeded(config.seed, "backbone"):
        backbone = build_network(config.model, dataset.num_classes)
    freeze(backbone.plain, config.freeze)
    member = method_member(config)
    peer = None
    if config.teacher is not None and member.partner == "teacher" and teacher is None:
        with torch.device("meta"):
            teacher = build_network(config.teacher, dataset.num_classes)
    if member.partner == "peer":
        with seeded(config.seed, "peer"):
            peer = build_network(config.teacher or config.model, dataset.num_classes)
    setting = Setting(
        backbone,
        dataset.size,
        config.seed,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights,
        epochs=config.epochs,
        teacher=teacher,
        peer=peer,
        ranks=ranks,
    )
    method: Method = member.build(member.configure(config.method.options), setting)
    return method


def check_method(config: Config) -> None:
    """Build a Config's networks and method without data or memory, as far as both can be told from the settings.

    Raises: UnknownName, ConfigError, ShapeError.
    """
    side = config.data.options.get("size", 32)
    with torch.device("meta"):
        build_method(config, Task(100, (side, side)))


def method_member(config: Config) -> Member:
    """Raises: UnknownName; ConfigError where the method and the teacher of a Config do not go together."""
    member = find(*FAMILIES["method"], config.method.name)
    teacher = config.teacher
    if member.partner is None and teacher is not None:
        raise ConfigError(
            f"the method {member.name} has no second network; leave --teacher out, or take another method"
        )
    if member.partner == "teacher" and teacher is None:
        raise ConfigError(
            f"the method {member.name} learns from a teacher; give --teacher RUN, the folder of a finished run, or "
            "--teacher.model NAME to have that network trained first"
        )
    if member.partner == "peer" and teacher is not None and teacher.run is not None:
        raise ConfigError(
            f"the second network of {member.name} learns along from the beginning, it is no trained one; "
            f"give --teacher.model {teacher.name} instead of --teacher {teacher.run}"
        )
    return member


def is_taught(config: Config) -> bool:
    """Whether its method learns from a trained teacher. Raises: as method_member."""
    return method_member(config).partner == "teacher"


def written_out(config: Config) -> Config:
    """The same Config with every option of data, network and method in it. Raises: UnknownName, ConfigError."""
    choices: dict[str, Any] = {
        family: Choice(name=chosen.name, options=find(*FAMILIES[family], chosen.name).written_out(chosen.options))
        for family, chosen in (("data", config.data), ("model", config.model), ("method", config.method))
    }
    if config.teacher is not None:
        options = find(*FAMILIES["model"], config.teacher.name).written_out(config.teacher.options)
        choices["teacher"] = replace(config.teacher, options=options)
    return replace(config, **choices)


def changed(config: Config) -> dict[str, Any]:
    """What was asked for besides a data set, by dotted name: settings that are not those of the recipe that a command
    on this data begins with, nor a member's own defaults. What the machine decided is not among them.

    Args:
        config: written out.
    Raises: UnknownName, ConfigError.
    """
    base = recipe(recipe_for(config.data.name))
    names = {family: chosen.name if chosen else None for family, chosen in _chosen(config).items()}
    found: dict[str, Any] = {
        family: names[family] for family, chosen in _chosen(base).items() if (chosen and chosen.name) != names[family]
    }
    for key, _, now in differences(written_out(with_members(base, names)).as_dict(), config.as_dict()):
        if key not in MACHINE:
            found[key] = now
    return found


def with_members(config: Config, names: Mapping[str, str | None]) -> Config:
    """The same Config with other members where `names` has others, by family: a teacher may be None. Of another member
    its own defaults, not what the Config says of the one that it had.
    """
    others: dict[str, Any] = {}
    for family, chosen in _chosen(config).items():
        name = names[family]
        if (chosen and chosen.name) != name:
            kind = Teacher if family == "teacher" else Choice
            others[family] = None if name is None else kind(name=name)
    return replace(config, **others)


def _chosen(config: Config) -> dict[str, Choice | None]:
    return {"data": config.data, "model": config.model, "method": config.method, "teacher": config.teacher}
