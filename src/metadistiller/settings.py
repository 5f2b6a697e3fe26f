"""From words on a command line, or a YAML file, to a Config: everything typed, nothing unknown.

jsonargparse reads types, ranges of choices and YAML. What is added here: the options of data, network and method
depend on which one is named, so the names are found first; short forms (`--data cifar100` for `--data.name
cifar100`); and an option that does not exist is answered with the one that was probably meant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .config import Choice, Config, Optim
from .errors import ConfigError, UnknownName
from .lookup import Member, find, modules
from .recipes import recipe, recipes
from .records import RunFolder

FAMILIES = {
    "data": ("metadistiller.data", "data set"),
    "model": ("metadistiller.nn.backbones", "network"),
    "method": ("metadistiller.methods", "method"),
}
DEFAULT_RECIPE = "digits"


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        config: the run.
        extras: values of the options that a command added, by name.
    """

    config: Config
    extras: Mapping[str, Any]


def parse(
    words: Sequence[str],
    *,
    command: str,
    add_extras: Callable[[ArgumentParser], None] = lambda parser: None,
) -> Settings:
    """Read a command's words: [RECIPE] [--config FILE] [--NAME VALUE ...].

    Args:
        words: what stands after the command.
        command: as the help shows it, such as "metadistiller train".
        add_extras: adds the command's own options.
    Raises: UnknownName, ConfigError. Exits 0 after --help and --print_config.
    """
    base, words = _take_recipe([_spell(word) for word in words])
    words = _expand_short_forms(words)
    words, from_files = _read_files(words)
    names = _names(words, from_files)
    config = recipe(base or _recipe_for(names.get("data")))
    members = {family: find(*FAMILIES[family], names.get(family, getattr(config, family).name)) for family in FAMILIES}
    parser = _parser(command, config, members, add_extras)
    _refuse_unknown(parser, words)
    try:
        found = parser.parse_args(words)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return _settings(found, members)


def load_config(folder: RunFolder) -> Config:
    """The Config of a run folder. Raises: CheckpointError, ConfigError."""
    values = folder.read_config()
    return parse(["--config", yaml.safe_dump(values)], command="config.yaml").config


# -- words ------------------------------------------------------------------------------------------------------------


def _spell(word: str) -> str:
    """--batch-size is --batch_size."""
    if not word.startswith("--"):
        return word
    option, equals, value = word.partition("=")
    return "--" + option[2:].replace("-", "_") + equals + value


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    return None, words


def _expand_short_forms(words: list[str]) -> list[str]:
    """`--data X`, `--model X` and `--method X` name a member; `--data PATH` finds the source by what lies there."""
    expanded: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        family = option[2:]
        if family not in FAMILIES or not option.startswith("--"):
            expanded.append(word)
            continue
        if not equals:
            try:
                value = next(rest)
            except StopIteration:
                raise ConfigError(f"{option} needs a name; 'metadistiller list' shows them") from None
        expanded += [f"--{key}={item}" for key, item in _member_words(family, value)]
    return expanded


def _member_words(family: str, value: str) -> list[tuple[str, str]]:
    if family == "data" and Path(value).exists():
        for module in modules(FAMILIES["data"][0]):
            recognises = vars(module).get("recognises")
            name = recognises(Path(value)) if recognises else None
            if name is not None:
                return [("data.name", name), ("data.root", value)]
        raise ConfigError(
            f"--data {value}: nothing that a data set is made of lies there; give a folder with class folders of "
            "images (below train/ and val/, or directly), or CIFAR's archives, folders or parquet files"
        )
    return [(f"{family}.name", value)]


def _read_files(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """--config FILE with its short forms written out, and what all files say together."""
    result, together = [], dict[str, Any]()
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--config":
            result.append(word)
            continue
        if not equals:
            value = next(rest, "")
        values = _read_file(value)
        together |= values
        result.append("--config=" + yaml.safe_dump(values))
    return result, together


def _read_file(text: str) -> dict[str, Any]:
    """Settings from a file's path, or from YAML itself."""
    path = Path(text) if "\n" not in text else None
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"--config {text!r}: there is no such file")
        text = path.read_text(encoding="utf-8")
    where = f"--config {path}" if path else "the settings"
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: holds {type(values).__name__}, not settings by name")
    for family in FAMILIES:
        if isinstance(values.get(family), str):
            pairs = _member_words(family, values[family])
            values[family] = {key.removeprefix(f"{family}."): item for key, item in pairs}
    return values


def _names(words: list[str], from_files: Mapping[str, Any]) -> dict[str, str]:
    """The members named, words before files."""
    names = {}
    for family in FAMILIES:
        in_file = from_files.get(family)
        if isinstance(in_file, dict) and "name" in in_file:
            names[family] = str(in_file["name"])
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        family, _, field = option[2:].partition(".")
        if family in FAMILIES and field == "name":
            names[family] = value if equals else next(rest, "")
    return names


def _recipe_for(data: str | None) -> str:
    """The recipe of the data set's own name; a source without one starts from the first command's."""
    return data if data in recipes() else DEFAULT_RECIPE


# -- the parser -------------------------------------------------------------------------------------------------------


def _parser(
    command: str,
    config: Config,
    members: Mapping[str, Member],
    add_extras: Callable[[ArgumentParser], None],
) -> ArgumentParser:
    parser = ArgumentParser(
        prog=command,
        usage=f"{command} [RECIPE] [--config FILE] [--OPTION VALUE ...]",
        description="RECIPE is a name from 'metadistiller list recipes'; options go on top of it.",
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="settings from a YAML file")
    add_extras(parser)
    for family, member in members.items():
        kind = FAMILIES[family][1]
        parser.add_argument(
            f"--{family}.name",
            type=str,
            default=member.name,
            help=f"the {kind}; --{family} NAME is short for it ('metadistiller list' shows the names)",
        )
        parser.add_class_arguments(member.options, family, skip=set(member.preset))
        chosen: Choice = getattr(config, family)
        if chosen.name == member.name:
            parser.set_defaults({f"{family}.{key}": value for key, value in chosen.options.items()})
    parser.add_class_arguments(Config, skip=set(FAMILIES))
    plain = {field.name: getattr(config, field.name) for field in fields(Config)}
    optim = asdict(plain.pop("optim"))
    defaults = {name: value for name, value in plain.items() if name not in FAMILIES}
    parser.set_defaults(defaults | {f"optim.{key}": value for key, value in optim.items()})
    return parser


def _refuse_unknown(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Raises: UnknownName for an option, or a key of a file, that is not there; the near miss is named."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        option, _, value = word.partition("=")
        if option == "--config":
            for key in _flat(yaml.safe_load(value)):
                if f"--{key}" not in known:
                    raise UnknownName("setting", key, [name[2:] for name in known])
        elif option.startswith("--") and option not in known:
            raise UnknownName("option", option, known)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in values.items():
        nested = isinstance(value, dict) and not prefix
        keys += _flat(value, f"{key}.") if nested else [f"{prefix}{key}"]
    return keys


def _settings(found: Namespace, members: Mapping[str, Member]) -> Settings:
    values: dict[str, Any] = found.as_dict()
    values.pop("config", None)
    choices: dict[str, Any] = {}
    for family, member in members.items():
        options = dict(values.pop(family))
        options.pop("name")
        # Building the options now finds a bad value before any data is read.
        choices[family] = Choice(name=member.name, options=member.written_out(options))
    optim = Optim(**values.pop("optim"))
    own = {field.name: values.pop(field.name) for field in fields(Config) if field.name in values}
    return Settings(Config(optim=optim, **choices, **own), values)
