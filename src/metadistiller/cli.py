"""The command `metadistiller`: words in, one function call, lines out.

Exit codes: 0 done, 1 the run failed, 2 the request cannot be meant, 130 interrupted.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import ConfigError, MetaDistillerError, UnknownName

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from .config import Config

SUMMARY = "More accurate image classifiers at no cost at inference."
INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except MetaDistillerError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        print(f"error: {error}; a run that had begun goes on with 'metadistiller resume RUN'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; 'metadistiller resume RUN' goes on from the run's last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"metadistiller {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    COMMANDS[name](rest)
    return 0


def _help() -> str:
    lines = [
        f"metadistiller {__version__}: {SUMMARY}",
        "",
        "usage: metadistiller COMMAND ...",
        "",
        "commands:",
    ]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<10} {(function.__doc__ or '').splitlines()[0]}")
    lines += [
        "",
        "'metadistiller COMMAND --help' shows a command's options.",
        "--debug after any command shows where an error came from.",
    ]
    return "\n".join(lines)


def _command_line(name: str, words: Sequence[str]) -> str:
    return shlex.join(["metadistiller", name, *words])


# -- training -------------------------------------------------------------------------------------------------------


def _train(words: list[str]) -> None:
    """Train a network and write a run folder: metadistiller train [RECIPE] [--OPTION VALUE ...]"""
    from .settings import parse

    def add(parser: "ArgumentParser") -> None:
        parser.add_argument("--out", type=str, default=None, help="the run folder; new or empty")
        parser.add_argument("--quiet", action="store_true", help="print the folder only")

    settings = parse(words, command="metadistiller train", add_extras=add)
    from .assemble import train

    _report(
        train(
            settings.config,
            settings.extras["out"],
            quiet=settings.extras["quiet"],
            command=_command_line("train", words),
        ),
        quiet=settings.extras["quiet"],
    )


def _resume(words: list[str]) -> None:
    """Go on with an interrupted run, with its own settings: metadistiller resume RUN"""
    parser = _parser("resume", _resume)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--quiet", action="store_true", help="print the folder only")
    given = _parse(parser, words)
    from .assemble import resume

    _report(resume(given.run, quiet=given.quiet, command=_command_line("resume", words)), quiet=given.quiet)


def _report(trained: Any, *, quiet: bool) -> None:
    if not quiet:
        _print_evaluation(
            f"{trained.result['network']}, {trained.result['method']}, {trained.result['data']}",
            json.loads((trained.folder / "evaluation.json").read_text(encoding="utf-8")),
        )
        print(f"report: {trained.folder / 'report.html'}")
    print(trained.folder)


def _compare(words: list[str]) -> None:
    """Train several methods over several seeds and compare them: metadistiller compare --methods A,B --seeds N"""
    from .settings import parse

    def add(parser: "ArgumentParser") -> None:
        parser.add_argument(
            "--methods",
            type=str,
            default="plain,dsn,self_distillation,metadistiller",
            help="comma-separated; METHOD:OPTION=VALUE sets an option and makes a row of its own",
        )
        parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1 of each method; >= 1")
        parser.add_argument("--out", type=str, default=None, help="the folder of all runs; may hold some already")

    _refuse_of_rows(words)
    settings = parse(words, command="metadistiller compare", add_extras=add)
    if settings.extras["seeds"] < 1:
        raise ConfigError(f"--seeds is {settings.extras['seeds']}; take 1 or more")
    from . import compare

    rows = {label: _with_method(words, label, add) for label in filter(None, settings.extras["methods"].split(","))}
    if not rows:
        raise ConfigError("--methods names none; 'metadistiller list methods' shows them")
    first = settings.config
    out = Path(settings.extras["out"] or f"runs/compare-{first.data.name}-{first.model.name}")
    command = _command_line("compare", words)
    pairs = compare.plan(rows, range(settings.extras["seeds"]), out)
    print(f"{len(pairs)} runs in {out}", flush=True)
    summary = compare.run(pairs, out, tell=lambda line: print(line, flush=True), command=command)
    _print_table(
        f"{first.model.name} on {first.data.name}, {first.epochs} epochs, last epoch's test accuracy",
        compare.HEADINGS,
        [compare.cells(row) for row in summary["rows"]],
    )
    print(out)


def _refuse_of_rows(words: Sequence[str]) -> None:
    """Raises: ConfigError for what a row of the table says, not the whole of it."""
    for word in words:
        option = word.partition("=")[0]
        if option == "--method" or option.startswith("--method."):
            raise ConfigError(f"{word}: say it of a row, --methods METHOD:OPTION=VALUE")
        if option == "--seed":
            raise ConfigError(f"{word}: compare takes --seeds N, for seeds 0 to N-1")


def _with_method(words: Sequence[str], label: str, add: "Callable[[ArgumentParser], None]") -> "Config":
    """The words' Config with the row's method in place of theirs."""
    from .settings import parse

    name, *options = label.split(":")
    for option in options:
        if "=" not in option:
            raise ConfigError(f"--methods: {option!r} in {label!r} is not OPTION=VALUE")
    row = [f"--method={name}", *(f"--method.{option}" for option in options)]
    return parse(words, command="metadistiller compare", add_extras=add, method=row).config


# -- looking --------------------------------------------------------------------------------------------------------


def _evaluate(words: list[str]) -> None:
    """Test accuracy of a run's newest checkpoint: metadistiller evaluate RUN [--ensemble probabilities]"""
    parser = _parser("evaluate", _evaluate)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--ensemble", help="mean of logits or of probabilities; the run's own otherwise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = _parse(parser, words)
    from .assemble import evaluate_run

    restored, found = evaluate_run(given.run, ensemble=given.ensemble)
    for reason in restored.refused:
        print(f"checkpoint refused: {reason}", file=sys.stderr)
    if given.json:
        scores = {"exits": found.exits, "final": found.final, "ensemble": found.ensemble, "loss": found.loss}
        print(json.dumps({**scores, "count": found.count, "epochs": restored.epochs_done}))
    else:
        title = f"{given.run} after {restored.epochs_done} of {restored.config.epochs} epochs"
        _print_evaluation(title, found.as_dict(restored.dataset.classes))


def _inspect(words: list[str]) -> None:
    """Stages, exits, generator and costs of a network: metadistiller inspect NAME [--classes N] [--size N] [--json]"""
    parser = _parser("inspect", _inspect)
    parser.add_argument("name", help="a network from 'metadistiller list networks'")
    parser.add_argument("--classes", type=int, default=100, help="default 100")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side; default 32")
    parser.add_argument("--stem", choices=("cifar", "imagenet"), help="for networks that have one")
    parser.add_argument("--width", type=int, help="for networks that have one")
    parser.add_argument("--generator", default="mirror", help="mirror, or channels of every map")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = _parse(parser, words)
    from .config import Choice
    from .inspection import inspect

    options = {key: getattr(given, key) for key in ("stem", "width") if getattr(given, key) is not None}
    if given.generator != "mirror" and not (given.generator.isdecimal() and int(given.generator) > 0):
        raise ConfigError(f"--generator is {given.generator!r}; take mirror, or channels from 1 on")
    found = inspect(
        Choice(name=given.name, options=options),
        num_classes=given.classes,
        size=(given.size, given.size),
        generator_width="mirror" if given.generator == "mirror" else int(given.generator),
    )
    if given.json:
        print(json.dumps(found))
        return
    rows = [
        (f"stage {k}", f"{s['channels']} x {s['height']} x {s['width']}", "", "")
        for k, s in enumerate(found["stages"], start=1)
    ]
    for name, counts, stays in (
        ("network", found, "ships"),
        ("exits", found["exits"], "removed after training"),
        (f"generator ({given.generator})", found["generator"], "removed after training"),
    ):
        rows.append((name, stays, f"{counts['parameters']:,}", f"{counts['macs']:,}"))
    _print_table(
        f"{given.name}, {given.classes} classes, {given.size} x {given.size} pixels",
        ("part", "", "parameters", "MACs"),
        rows,
    )


def _list(words: list[str]) -> None:
    """Names of networks, methods, data sets and recipes: metadistiller list [networks|methods|data|recipes]"""
    parser = _parser("list", _list)
    parser.add_argument("what", nargs="?", choices=("networks", "methods", "data", "recipes"))
    given = _parse(parser, words)
    from .lookup import FAMILIES, table
    from .recipes import recipes

    packages = {"networks": FAMILIES["model"][0], "methods": FAMILIES["method"][0], "data": FAMILIES["data"][0]}
    for what in [given.what] if given.what else [*packages, "recipes"]:
        if what == "recipes":
            lines = {name: (make.__doc__ or "").splitlines()[0] for name, make in recipes().items()}
        else:
            lines = {name: member.summary for name, member in table(packages[what]).items()}
        print(f"{what}:")
        for name, summary in lines.items():
            print(f"  {name:<18} {summary}")


def _export(words: list[str]) -> None:
    """The plain network of a run as one file: metadistiller export RUN [--out FILE]"""
    parser = _parser("export", _export)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--format", choices=("safetensors",), default="safetensors")
    parser.add_argument("--out", help="the file; RUN/exported.safetensors otherwise")
    given = _parse(parser, words)
    from .assemble import export

    path, count = export(given.run, given.out)
    print(f"{count} test images give bitwise the same logits as the trained network")
    print(path)


COMMANDS: Mapping[str, Callable[[list[str]], None]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "compare": _compare,
    "inspect": _inspect,
    "list": _list,
    "export": _export,
}


# -- small things ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} ('{self.prog} --help' shows what there is)")


def _parser(name: str, function: Callable[[list[str]], None]) -> _Parser:
    return _Parser(
        prog=f"metadistiller {name}",
        description=(function.__doc__ or "").split(":")[0] + ".",
        allow_abbrev=False,
    )


def _parse(parser: _Parser, words: list[str]) -> argparse.Namespace:
    """Raises: UnknownName for an option that is not there, ConfigError for anything else."""
    given, unknown = parser.parse_known_args(words)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in unknown:
        if word.startswith("-"):
            raise UnknownName("option", word.partition("=")[0], known)
        raise ConfigError(f"{word!r} is one word too many ('{parser.prog} --help' shows what there is)")
    return given


def _print_evaluation(title: str, evaluation: Mapping[str, Any]) -> None:
    count = evaluation["count"]
    rows = [
        (output["name"], f"{100 * output['top1'] / count:.2f}", f"{100 * output['top5'] / count:.2f}")
        for output in evaluation["outputs"]
    ]
    _print_table(f"{title}: accuracy in percent of {count:,} test images", ("output", "top-1", "top-5"), rows)


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width to fit into; cut numbers would be worse than long lines.
        console = Console(width=200)
    # Above the table, since as its title it would be wrapped to the table's width.
    console.print(title, markup=False, highlight=False)
    console.print(table)
