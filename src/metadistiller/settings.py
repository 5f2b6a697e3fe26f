"""From words on a command line, or a YAML file, to a Config: everything typed, nothing unknown.

jsonargparse reads types, ranges of choices and YAML. What is added here: the options of data, network and method
depend on which one is named, so the names are found first; short forms (`--data cifar100` for `--data.name
cifar100`); and an option that does not exist is answered with the one that was probably meant. A teacher is a fourth
thing that may be named, by its network (`--teacher.model resnet152`) or by the run that trained it (`--teacher RUN`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .config import Augmentation, Choice, Config, Optim, Teacher
from .errors import ConfigError, UnknownName
from .lookup import FAMILIES, Member, find, modules
from .recipes import recipe, recipes
from .records import RunFolder

DEFAULT_RECIPE = "digits"
# Settings of a Config that are several: what holds them, and an example.
_GROUPS: dict[str, tuple[type[Any], str]] = {
    "optim": (Optim, "lr: 0.1"),
    "augment": (Augmentation, "policy: randaugment"),
}
# What a run is put together from by name -> as FAMILIES has it. A teacher is a network like any other.
ROLES = {**FAMILIES, "teacher": FAMILIES["model"]}


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        config: the run.
        extras: values of the options that a command added, by name.
        recipe: the name of the one that it started from.
    """

    config: Config
    extras: Mapping[str, Any]
    recipe: str


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
    base, words = _take_recipe(_short_values([_spell(word) for word in words]))
    words, files = _split_files(words)
    # What files say comes first, so that words win over files and a later file over an earlier one.
    from_files = [word for file in files for word in _file_words(file)]
    if method is not None:
        from_files = [word for word in from_files if not word.startswith(("--method=", "--method."))]
        words = [*words, *method]
    # Once: finding out what lies at a path reads the disk.
    from_files, words = _expand_short_forms(from_files), _expand_short_forms(words)
    in_files, in_words = _names(from_files), _names(words)
    from_files = _of_the_same(from_files, in_files, in_words)
    everything = _without_earlier_teachers([*from_files, *words])
    names = _names(everything)
    started_from = base or recipe_for(names.get("data"))
    config = recipe(started_from)
    members = {family: find(*FAMILIES[family], names.get(family, getattr(config, family).name)) for family in FAMILIES}
    another = "method" in in_files and in_words.get("method", in_files["method"]) != in_files["method"]
    if members["method"].partner is None and (method is not None or (another and "teacher" not in in_words)):
        # A row without a second network beside others that have one; or a file's teacher, whose method was replaced.
        everything = [word for word in everything if not word.startswith(("--teacher.", _NO_TEACHER))]
        names.pop("teacher", None)
    if teacher := _teacher_name(everything, names, config, members["method"]):
        members["teacher"] = find(*ROLES["teacher"], teacher)
    parser = _parser(command, config, members, add_extras)
    _refuse_unknown(parser, [word for word in from_files if word in everything], "setting", prefix="")
    _refuse_unknown(parser, [word for word in words if word in everything], "option", prefix="--")
    try:
        found = parser.parse_args([word for word in everything if word != _NO_TEACHER])
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return _settings(found, members, started_from)


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


def _short_values(words: Sequence[str]) -> list[str]:
    """`--pretrained` alone is true, and `--freeze a,b` a list."""
    short: list[str] = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        following = words[place + 1] if place + 1 < len(words) else "--"
        if word == "--pretrained" and following.startswith("--"):
            short.append("--pretrained=true")
        elif word.startswith("--freeze=") and not word.startswith("--freeze=["):
            short.append("--freeze=" + json.dumps(word.partition("=")[2].split(",")))
        elif before == "--freeze" and not word.startswith("["):
            short.append(json.dumps(word.split(",")))
        else:
            short.append(word)
    return short


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    return None, words


def _expand_short_forms(words: list[str]) -> list[str]:
    """`--data X`, `--model X` and `--method X` name a member; `--data PATH` finds the source by what lies there, and
    `--teacher RUN` the network of that run.
    """
    expanded: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        family = option[2:]
        if option.startswith("--teacher."):
            # One word each, so that they can be taken back together.
            said = value if equals else next(rest, "")
            expanded.append(f"{'--teacher.name' if option == '--teacher.model' else option}={said}")
            continue
        if family not in ROLES or not option.startswith("--"):
            expanded.append(word)
            continue
        if not equals:
            try:
                value = next(rest)
            except StopIteration:
                raise ConfigError(f"{option} needs a name; 'metadistiller list' shows them") from None
        expanded += _teacher_words(value) if family == "teacher" else _member_words(family, value)
    return expanded


def _member_words(family: str, value: str) -> list[str]:
    if family != "data" or _is_data_name(value):
        return [f"--{family}.name={value}"]
    if not Path(value).exists():
        if "/" in value:
            raise ConfigError(f"--data {value}: there is no such file or folder (looked from {Path.cwd()})")
        return [f"--data.name={value}"]
    for module in modules(FAMILIES["data"][0]):
        recognises = vars(module).get("recognises")
        name = recognises(Path(value)) if recognises else None
        if name is not None:
            return ["--data.name=" + name, "--data.root=" + value]
    raise ConfigError(
        f"--data {value}: nothing that a data set is made of lies there; give a folder with class folders of "
        "images (below train/ and val/, or directly), a table of paths and labels, parquet files of images, chunks of "
        "litdata, or CIFAR's archives or folders"
    )


def _is_data_name(value: str) -> bool:
    """Whether it names a data set, one of the list or of the endless many (hf:OWNER/NAME)."""
    try:
        find(*FAMILIES["data"], value)
    except UnknownName:
        return False
    return True


_NO_TEACHER = "--teacher=null"


def _teacher_words(value: str) -> list[str]:
    """What `--teacher VALUE` means: nobody for null, else the network of that run."""
    # Whatever was said of a teacher before is not of this one.
    if value in ("null", ""):
        return [_NO_TEACHER]
    if not Path(value).is_dir():
        raise ConfigError(
            f"--teacher {value}: there is no such run folder (looked from {Path.cwd()}); "
            "to have a teacher trained first, give its network as --teacher.model NAME"
        )
    model = RunFolder.open(value).read_config().get("model")
    if not isinstance(model, dict) or "name" not in model:
        raise ConfigError(f"--teacher {value}: its {RunFolder(value).config.name} names no network; was it edited?")
    return [
        _NO_TEACHER,
        *(f"--teacher.{key}={_as_word(item)}" for key, item in model.items()),
        f"--teacher.run={value}",
    ]


def _without_earlier_teachers(words: list[str]) -> list[str]:
    """Without the teachers that a later one has taken the place of."""
    last = max((place for place, word in enumerate(words) if word == _NO_TEACHER), default=None)
    if last is None:
        return words
    return [word for word in words[:last] if not word.startswith("--teacher.")] + words[last:]


def _of_the_same(words: list[str], named: Mapping[str, str], later: Mapping[str, str]) -> list[str]:
    """Without what is said of a member in whose place another one is named later."""
    replaced = tuple(f"--{role}." for role in named if later.get(role, named[role]) != named[role])
    return [word for word in words if not replaced or not word.startswith(replaced)]


def _teacher_name(words: Sequence[str], names: Mapping[str, str], config: Config, method: Member) -> str | None:
    """The teacher's network, from the words or else from the recipe, as far as the method has one."""
    if "teacher" in names:
        return names["teacher"]
    for word in words:
        if word.startswith("--teacher."):
            raise ConfigError(f"{word}: of which teacher? Give --teacher RUN, or --teacher.model NAME")
    if _NO_TEACHER in words or config.teacher is None or method.partner is None:
        return None
    return config.teacher.name


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
        elif key == "teacher" and value is None:
            words.append(_NO_TEACHER)
        elif key in ROLES and not isinstance(value, str):
            raise ConfigError(f"{where}: {key} is {value!r}; give a name, or settings with a name among them")
        elif key in _GROUPS:
            raise ConfigError(f"{where}: {key} is {value!r}; give settings by name, such as {_GROUPS[key][1]}")
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
        if family in ROLES and field == "name":
            names[family] = value if equals else next(rest, "")
    return names


def recipe_for(data: str | None) -> str:
    """The recipe of the data set's own name, or of what stands in it before a colon (hf:NAME); a source without one
    starts from the first command's.
    """
    own = (data or "").partition(":")[0]
    return own if own in recipes() else DEFAULT_RECIPE


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
    if "teacher" not in members:
        # For the help; with a teacher it is the name of a group, and the words below say the same of it.
        parser.add_argument(
            "--teacher", type=str, help="the run that trained a teacher; --teacher.model NAME has one trained first"
        )
    for family, member in members.items():
        kind = ROLES[family][1]
        parser.add_argument(
            f"--{family}.name",
            type=str,
            default=member.name,
            help=f"the {kind}; --{family} NAME is short for it ('metadistiller list' shows the names)",
        )
        parser.add_class_arguments(member.options, family, as_group=False, skip=set(member.preset))
        if family == "teacher":
            parser.add_argument(
                "--teacher.run", type=str | None, default=None, help="its run; null has it trained first"
            )
        chosen: Choice | None = getattr(config, family)
        if chosen is not None and (chosen.name == member.name or _is_variant(family, member, chosen)):
            parser.set_defaults({f"{family}.{key}": value for key, value in chosen.options.items()})
    parser.add_class_arguments(Config, skip=set(ROLES))
    plain = {field.name: getattr(config, field.name) for field in fields(Config)}
    groups = {group: asdict(plain.pop(group)) for group in _GROUPS}
    defaults = {name: value for name, value in plain.items() if name not in ROLES}
    inner = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    parser.set_defaults(defaults | inner)
    return parser


def _is_variant(family: str, member: Member, chosen: Choice) -> bool:
    """Whether a method differs from a recipe's in what its name fixes alone: what the recipe says of options holds."""
    return family == "method" and find(*ROLES[family], chosen.name).options is member.options


def _refuse_unknown(parser: ArgumentParser, words: Sequence[str], kind: str, *, prefix: str) -> None:
    """Raises: UnknownName for an option, or a key of a file, that is not there; the near miss is named."""
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    short = [f"--{family}" for family in ROLES]
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in (*known, *short):
            raise UnknownName(kind, option.replace("--", prefix, 1), [name.replace("--", prefix, 1) for name in known])


def _settings(found: Namespace, members: Mapping[str, Member], started_from: str) -> Settings:
    values: dict[str, Any] = found.as_dict()
    values.pop("config", None)
    choices: dict[str, Any] = {}
    for family, member in members.items():
        options = dict(values.pop(family))
        options.pop("name")
        run = {"run": options.pop("run")} if family == "teacher" else {}
        # Building the options now finds a bad value before any data is read.
        kind = Teacher if family == "teacher" else Choice
        choices[family] = kind(name=member.name, options=member.written_out(options), **run)
    if "teacher" not in members:
        values.pop("teacher", None)
    groups = {group: kind(**values.pop(group)) for group, (kind, _) in _GROUPS.items()}
    own = {field.name: values.pop(field.name) for field in fields(Config) if field.name in values}
    return Settings(Config(**groups, **choices, **own), values, started_from)
