"""From words on a command line, or a YAML file, to a Config: everything typed, nothing unknown.

jsonargparse reads types, ranges of choices and YAML. What is added here: the options of data, network and method
depend on which one is named, so the names are found first; short forms (`--data cifar100` for `--data.name
cifar100`); and an option that does not exist is answered with the one that was probably meant.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .config import Choice, Config, Optim
from .errors import ConfigError, UnknownName
from .lookup import FAMILIES, Member, find, modules, table
from .recipes import recipe, recipes
from .records import RunFolder

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
    method: Sequence[str] | None = None,
) -> Settings:
    """Read a command's words: [RECIPE] [--config FILE] [--NAME VALUE ...].

    Args:
        words: what stands after the command.
        command: as the help shows it, such as "metadistiller train".
        add_extras: adds the command's own options.
        method: words that take the place of whatever a file says of the method.
    Raises: UnknownName, ConfigError. Exits 0 after --help and --print_config.
    """
    base, words = _take_recipe([_spell(word) for word in words])
    words, files = _split_files(words)
    # What files say comes first, so that words win over files and a later file over an earlier one.
    from_files = [word for file in files for word in _file_words(file)]
    if method is not None:
        from_files = [word for word in from_files if not word.startswith(("--method=", "--method."))]
        words = [*words, *method]
    # Once: finding out what lies at a path reads the disk.
    from_files = _expand_short_forms(from_files)
    everything = [*from_files, *_expand_short_forms(words)]
    names = _names(everything)
    config = recipe(base or _recipe_for(names.get("data")))
    members = {family: find(*FAMILIES[family], names.get(family, getattr(config, family).name)) for family in FAMILIES}
    parser = _parser(command, config, members, add_extras)
    _refuse_unknown(parser, from_files, "setting", prefix="")
    _refuse_unknown(parser, words, "option", prefix="--")
    try:
        found = parser.parse_args(everything)
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
    if family == "data" and "/" in value and not Path(value).exists():
        raise ConfigError(f"--data {value}: there is no such file or folder (looked from {Path.cwd()})")
    if family != "data" or value in table(FAMILIES["data"][0]) or not Path(value).exists():
        return [(f"{family}.name", value)]
    for module in modules(FAMILIES["data"][0]):
        recognises = vars(module).get("recognises")
        name = recognises(Path(value)) if recognises else None
        if name is not None:
            return [("data.name", name), ("data.root", value)]
    raise ConfigError(
        f"--data {value}: nothing that a data set is made of lies there; give a folder with class folders of "
        "images (below train/ and val/, or directly), or CIFAR's archives, folders or parquet files"
    )


def _split_files(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without --config, and the files that it names."""
    others, files = [], []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option == "--config":
            value = value if equals else next(rest, "")
            if not value:
                raise ConfigError("--config needs the path of a YAML file")
            files.append(value)
        else:
            others.append(word)
    return others, files


def _file_words(text: str) -> list[str]:
    """A YAML file as the words that mean the same, so that one set of rules reads both.

    Args:
        text: the path of a file, or several lines of YAML themselves.
    Raises: ConfigError naming the file.
    """
    where = "the settings"
    if "\n" not in text:
        where = f"--config {text}"
        try:
            text = Path(text).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{where}: there is no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read as text ({error})") from None
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: holds {type(values).__name__}, not settings by name")
    words = []
    for key, value in values.items():
        if isinstance(value, dict):
            words += [f"--{key}.{inner}={_as_word(item)}" for inner, item in value.items()]
        elif key in FAMILIES and not isinstance(value, str):
            raise ConfigError(f"{where}: {key} is {value!r}; give a name, or settings with a name among them")
        elif key == "optim":
            raise ConfigError(f"{where}: optim is {value!r}; give settings by name, such as lr: 0.1")
        else:
            words.append(f"--{key}={_as_word(value)}")
    return words


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _names(words: list[str]) -> dict[str, str]:
    """The members named; of several the last."""
    names = {}
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
        parser.add_class_arguments(member.options, family, as_group=False, skip=set(member.preset))
        chosen: Choice = getattr(config, family)
        if chosen.name == member.name:
            parser.set_defaults({f"{family}.{key}": value for key, value in chosen.options.items()})
    parser.add_class_arguments(Config, skip=set(FAMILIES))
    plain = {field.name: getattr(config, field.name) for field in fields(Config)}
    optim = asdict(plain.pop("optim"))
    defaults = {name: value for name, value in plain.items() if name not in FAMILIES}
    parser.set_defaults(defaults | {f"optim.{key}": value for key, value in optim.items()})
    return parser


def _refuse_unknown(parser: ArgumentParser, words: Sequence[str], kind: str, *, prefix: str) -> None:
    """Raises: UnknownName for an option, or a key of a file, that is not there; the near miss is named."""
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    short = [f"--{family}" for family in FAMILIES]
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in (*known, *short):
            raise UnknownName(kind, option.replace("--", prefix, 1), [name.replace("--", prefix, 1) for name in known])


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
