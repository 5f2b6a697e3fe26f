"""What the commands share: reading words, printing tables."""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..budget import Budget, seconds
from ..errors import ConfigError, UnknownName
from ..timing import HEADINGS, Profile

PROFILE = (
    "measure where the time goes, part by part, and show it at the end and in the report; trains the same network, but "
    "a GPU is waited for at each part, which makes the run slower there"
)
TRACK = (
    "tell the run to a tracker as well: tensorboard, trackio or wandb; several with commas, or the option again. "
    "Trains the same network, and one that fails ends nothing"
)
BUDGET = "time after which the run is saved and stops, such as 25m or 1h30m; exit code 3"


def command_line(name: str, words: Sequence[str]) -> str:
    """The command as it was given, for the record."""
    return shlex.join(["metadistiller", name, *words])


def budget_of(text: str | None) -> Budget:
    """Raises: ConfigError where `text` is no time."""
    return Budget(None if text is None else seconds(text))


def named(options: Sequence[str] | None) -> tuple[str, ...]:
    """The names in an option that may be given several times and hold several, each once."""
    return tuple(dict.fromkeys(name.strip() for words in options or () for name in words.split(",") if name.strip()))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} ('{self.prog} --help' shows what there is)")


def parser_of(function: Callable[[list[str]], None], name: str | None = None) -> argparse.ArgumentParser:
    """An empty parser for the command that `function` is, with its docstring's first words above the options."""
    return _Parser(
        prog=f"metadistiller {name or function.__name__}",
        description=(function.__doc__ or "").split(":")[0] + ".",
        allow_abbrev=False,
    )


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Raises: UnknownName for an option that is not there, ConfigError for anything else."""
    given, unknown = parser.parse_known_args(words)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in unknown:
        if word.startswith("-"):
            raise UnknownName("option", word.partition("=")[0], known)
        raise ConfigError(f"{word!r} is one word too many ('{parser.prog} --help' shows what there is)")
    return given


def plain(text: str) -> str:
    """Without what a terminal takes for an order or a new line: names of files and classes come from anywhere."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def print_evaluation(title: str, evaluation: Mapping[str, Any]) -> None:
    count = evaluation["count"]
    rows = [
        (output["name"], f"{100 * output['top1'] / count:.2f}", f"{100 * output['top5'] / count:.2f}")
        for output in evaluation["outputs"]
    ]
    print_table(f"{title}: accuracy in percent of {count:,} test images", ("output", "top-1", "top-5"), rows)


def print_profile(profile: Profile, run_seconds: float) -> None:
    rows = [profile.cells(part) for part in profile.parts]
    print_table(f"where the time went, {profile.coverage(run_seconds)}", HEADINGS, rows)


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        # As text, or rich would read [b] in a name as its own.
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width to fit into; cut numbers would be worse than long lines.
        console = Console(width=200)
    # Above the table, since as its title it would be wrapped to the table's width.
    console.print(plain(title), markup=False, highlight=False)
    console.print(table)
