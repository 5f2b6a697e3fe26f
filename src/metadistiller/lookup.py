"""Names are files: the members of a family are the public modules of its package.

A member module holds three things, and nothing is listed anywhere else:

    Options   frozen dataclass of what may be set, with defaults
    NAMES     name -> the Options fields that the name fixes (an empty dict where it fixes none)
    build     the function or class that makes the member from its Options

A data source whose images are files adds `listing(options)`, which names them and decodes none.
A network family whose publisher gives weights adds `pretrained_weights(options)`, which returns a state dict.
A method that learns with a second network adds PARTNER, "teacher" or "peer" (see metadistiller.methods).
A family with endless names (WRN-d-w, timm/NAME) adds PATTERN, a compiled expression whose groups are Options fields:
whole numbers or words.
"""

import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal

from .errors import ConfigError, UnknownName

# What may be chosen by name -> the package of its members, and what one of them is called.
FAMILIES = {
    "data": ("metadistiller.data", "data set"),
    "model": ("metadistiller.nn.backbones", "network"),
    "method": ("metadistiller.methods", "method"),
}


@dataclass(frozen=True)
class Member:
    """One named member of a family: `build(options, ...)` makes it.

    Attributes:
        name: as the user wrote it.
        options: the dataclass of what may be set.
        preset: the fields that the name itself fixes.
        build: takes the Options first; what else it takes is the family's contract.
        summary: first line of the module's docstring.
        listing: of a data source whose images are files: from the Options to their names and labels.
        pretrained_weights: of a network family whose publisher gives weights: from the Options to a state dict.
        partner: which second network a method learns with; None for none, and outside the methods.
    """

    name: str
    options: type[Any]
    preset: Mapping[str, Any]
    build: Callable[..., Any]
    summary: str
    partner: Literal["teacher", "peer"] | None = None
    pretrained_weights: Callable[[Any], Mapping[str, Any]] | None = None
    listing: Callable[[Any], Any] | None = None

    def configure(self, given: Mapping[str, Any]) -> Any:
        """Options from `given` on top of the name's preset. Raises: UnknownName, ConfigError."""
        known = [field.name for field in fields(self.options)]
        for key in given:
            if key not in known:
                raise UnknownName(f"option of {self.name}", key, known)
        # A list is how YAML and JSON write a tuple.
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        for key, fixed in self.preset.items():
            if key in values and values[key] != fixed:
                raise ConfigError(
                    f"the name {self.name!r} says {key}={fixed!r}, but {key}={values[key]!r} was given; "
                    f"leave {key} out or choose another name"
                )
        return self.options(**{**values, **self.preset})

    def written_out(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with every default beside it, as plain values; what the name fixes is left to the name.

        Raises: UnknownName, ConfigError.
        """
        options = self.configure(given)
        values = {field.name: getattr(options, field.name) for field in fields(self.options)}
        return {key: _plain(value) for key, value in values.items() if key not in self.preset}


def _plain(value: Any) -> Any:
    """As YAML and JSON have it."""
    if isinstance(value, tuple):
        return list(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def modules(package: str) -> list[ModuleType]:
    """The public modules of a family, sorted by name."""
    parent = importlib.import_module(package)
    names = sorted(info.name for info in pkgutil.iter_modules(parent.__path__))
    return [importlib.import_module(f"{package}.{name}") for name in names if not name.startswith("_")]


def _member(module: ModuleType, name: str, preset: Mapping[str, Any]) -> Member:
    summary = (module.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return Member(
        name,
        module.Options,
        preset,
        module.build,
        summary,
        vars(module).get("PARTNER"),
        vars(module).get("pretrained_weights"),
        vars(module).get("listing"),
    )


def _is_count(options: type[Any], key: str) -> bool:
    """Whether a field of Options is a whole number."""
    return any(field.name == key and field.type in (int, "int") for field in fields(options))


def table(package: str) -> dict[str, Member]:
    """Every named member of a family, in the order of its files and of their NAMES."""
    return {name: _member(module, name, preset) for module in modules(package) for name, preset in module.NAMES.items()}


def endless(package: str) -> dict[str, str]:
    """How names of families with a PATTERN are made (timm/ARCHITECTURE) -> what they are."""
    found = {}
    for module in modules(package):
        pattern: re.Pattern[str] | None = vars(module).get("PATTERN")
        if pattern is not None:
            made = re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda group: group[1].upper(), pattern.pattern)
            found[made] = (module.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return found


def find(package: str, kind: str, name: str) -> Member:
    """The member called `name`. Raises: UnknownName with the near miss."""
    members = table(package)
    if name in members:
        return members[name]
    for module in modules(package):
        pattern: re.Pattern[str] | None = vars(module).get("PATTERN")
        if pattern is not None and (match := pattern.fullmatch(name)):
            preset = {
                key: int(value) if _is_count(module.Options, key) else value for key, value in match.groupdict().items()
            }
            return _member(module, name, preset)
    raise UnknownName(kind, name, members)
