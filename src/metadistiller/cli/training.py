"""Commands that train."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import launch
from ..errors import ConfigError, Paused
from ..records import RunFolder
from ..signals import Signals, stop_with_parent
from ..timing import profile_of
from ._words import (
    BUDGET,
    PROFILE,
    TRACK,
    budget_of,
    command_line,
    named,
    parse,
    parser_of,
    print_evaluation,
    print_profile,
    print_table,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ..config import Config


def train(words: list[str]) -> None:
    """Train a network and write a run folder: metadistiller train [RECIPE] [--OPTION VALUE ...]"""
    with Signals() as signals:
        stop_with_parent(signals)
        from ..settings import parse as settings_of

        settings = settings_of(words, command="metadistiller train", add_extras=_add_train)
        extras = settings.extras
        budget = budget_of(extras["budget"])
        from .. import assemble
        from ..engine.machine import keep_freed_memory

        keep_freed_memory()
        trained = assemble.train(
            settings.config,
            extras["out"],
            auto_resume=extras["auto_resume"],
            quiet=extras["quiet"],
            command=command_line("train", words),
            stop=budget.spent,
            interrupted=signals,
            profile=extras["profile"],
            track=named(extras["track"]),
        )
    _report(trained, quiet=extras["quiet"], profile=extras["profile"])


def _add_train(parser: "ArgumentParser") -> None:
    parser.add_argument("--out", type=str, default=None, help="the run folder; new or empty")
    parser.add_argument(
        "--auto_resume",
        action="store_true",
        help="go on with the run in that folder, or in the default one, where it has these settings; else begin",
    )
    parser.add_argument("--quiet", action="store_true", help="print the folder only")
    parser.add_argument("--budget", type=str, default=None, help=BUDGET)
    parser.add_argument("--profile", action="store_true", help=PROFILE)
    parser.add_argument("--track", action="append", default=None, help=TRACK)


def resume(words: list[str]) -> None:
    """Go on with an interrupted run, with its own settings: metadistiller resume RUN"""
    parser = parser_of(resume)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--quiet", action="store_true", help="print the folder only")
    parser.add_argument("--budget", help=BUDGET)
    parser.add_argument("--profile", action="store_true", help=PROFILE)
    parser.add_argument("--track", action="append", default=None, help=TRACK)
    given = parse(parser, words)
    budget = budget_of(given.budget)
    with Signals() as signals:
        stop_with_parent(signals)
        from .. import assemble
        from ..engine.machine import keep_freed_memory

        keep_freed_memory()
        trained = assemble.resume(
            given.run,
            quiet=given.quiet,
            command=command_line("resume", words),
            stop=budget.spent,
            interrupted=signals,
            profile=given.profile,
            track=named(given.track),
        )
    _report(trained, quiet=given.quiet, profile=given.profile)


def _report(trained: Any, *, quiet: bool, profile: bool) -> None:
    if not launch.first():
        return
    if trained.before:
        print(f"{trained.folder} was finished before, nothing was left to train", file=sys.stderr)
    if not quiet:
        print_evaluation(
            f"{trained.result['network']}, {trained.result['method']}, {trained.result['data']}",
            json.loads((trained.folder / "evaluation.json").read_text(encoding="utf-8")),
        )
        found = profile_of(RunFolder(trained.folder).read_events()) if profile else None
        if found is not None:
            print_profile(found, trained.result["seconds"])
        print(f"report: {trained.folder / 'report.html'}")
    print(trained.folder)


def compare(words: list[str]) -> None:
    """Train several methods over several seeds and compare them: metadistiller compare --methods A,B --seeds N"""
    launch.refuse_several("compare")
    with Signals() as signals:
        _compare(words, signals)


def _compare(words: list[str], signals: Signals) -> None:
    from ..config import OF_A_ROW
    from ..settings import parse as settings_of

    def add(parser: "ArgumentParser") -> None:
        parser.add_argument(
            "--methods",
            type=str,
            default="plain,dsn,self_distillation,metadistiller",
            help="comma-separated; METHOD:OPTION=VALUE makes a row of its own, with an option of the method or of "
            + ", ".join(OF_A_ROW),
        )
        parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1 of each method; >= 1")
        parser.add_argument("--out", type=str, default=None, help="the folder of all runs; may hold some already")
        parser.add_argument(
            "--evidence",
            type=str,
            default=None,
            help="the folder of a ledger.json that each finished run is entered in",
        )

    _refuse_of_rows(words)
    settings = settings_of(words, command="metadistiller compare", add_extras=add)
    if settings.extras["seeds"] < 1:
        raise ConfigError(f"--seeds is {settings.extras['seeds']}; take 1 or more")
    _refuse_nowhere(settings.extras["evidence"])
    from .. import compare as comparing
    from ..entering import enter

    rows = {label: _with_method(words, label, add) for label in filter(None, settings.extras["methods"].split(","))}
    if not rows:
        raise ConfigError("--methods names none; 'metadistiller list methods' shows them")
    first = settings.config
    own = f"compare-{first.data.name}-{first.model.name}".replace("/", "_")
    out = Path(settings.extras["out"] or f"runs/{own}")
    command = command_line("compare", words)
    evidence = settings.extras["evidence"]
    # Which ledger a run stands in says nothing about the run.
    entered_as = command_line("compare", _without(words, "--evidence"))
    pairs = comparing.plan(rows, range(settings.extras["seeds"]), out)
    print(f"{len(pairs)} runs in {out}", flush=True)
    summary = comparing.run(
        pairs,
        out,
        tell=lambda line: print(line, flush=True),
        command=command,
        interrupted=signals,
        enter=evidence and partial(enter, evidence=Path(evidence), started_from=settings.recipe, command=entered_as),
    )
    print_table(
        f"{first.model.name} on {first.data.name}, {first.epochs} epochs, last epoch's test accuracy",
        comparing.HEADINGS,
        [comparing.cells(row) for row in summary["rows"]],
    )
    print(f"report: {out / 'report.html'}")
    if evidence:
        print(f"evidence: {Path(evidence) / 'README.md'}")
    print(out)


def _refuse_nowhere(evidence: str | None) -> None:
    """Raises: ConfigError where the folder has no name, such as of a variable that is not set."""
    if evidence == "":
        raise ConfigError("--evidence is ''; give the folder of a ledger.json, such as evidence")


def _without(words: Sequence[str], option: str) -> list[str]:
    """The words without an option and its value."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name != option:
            kept.append(word)
        elif not equals:
            next(rest, None)
    return kept


def _refuse_of_rows(words: Sequence[str]) -> None:
    """Raises: ConfigError for what a row of the table says, not the whole of it."""
    for word in words:
        option = word.partition("=")[0]
        if option == "--method" or option.startswith("--method."):
            raise ConfigError(f"{word}: say it of a row, --methods METHOD:OPTION=VALUE")
    _refuse(words, "--seed", "compare takes --seeds N, for seeds 0 to N-1")


def _refuse(words: Sequence[str], option: str, why: str) -> None:
    """Raises: ConfigError where `option` is among the words."""
    for word in words:
        if word.partition("=")[0] == option:
            raise ConfigError(f"{word}: {why}")


def _with_method(words: Sequence[str], label: str, add: "Callable[[ArgumentParser], None]") -> "Config":
    """The words' Config with the row's method in place of theirs, and what else the row says."""
    from ..config import OF_A_ROW, Config, is_of_a_row
    from ..settings import parse as settings_of

    of_all = {field.name for field in fields(Config)}
    name, *options = label.split(":")
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals:
            raise ConfigError(f"--methods: {option!r} in {label!r} is not OPTION=VALUE")
        if key.partition(".")[0] in of_all and not is_of_a_row(option):
            raise ConfigError(
                f"--methods: {option!r} in {label!r} is of all rows, so give --{key}; a row may have options of its "
                f"method and of {', '.join(OF_A_ROW)}"
            )
    row = [f"--method={name}", *(f"--{option}" if is_of_a_row(option) else f"--method.{option}" for option in options)]
    return settings_of(words, command="metadistiller compare", add_extras=add, method=row).config


def reproduce(words: list[str]) -> None:
    """Train what is missing of a table of the paper: metadistiller reproduce table1 [--rows A,B] [--budget 25m]"""
    launch.refuse_several("reproduce")
    with Signals() as signals:
        _reproduce(words, signals)


def _reproduce(words: list[str], signals: Signals) -> None:
    from .. import reproduce as reproducing
    from ..settings import parse as settings_of

    parser = parser_of(reproduce)
    parser.usage = f"{parser.prog} TARGET [--rows A,B] [--methods A,B] [--seeds N] [--budget 25m] [--OPTION VALUE ...]"
    parser.epilog = "OPTION is any setting of 'metadistiller train', such as --epochs 3 or --data.root FOLDER."
    parser.add_argument("target", choices=reproducing.TARGETS, help="a table, the ablation, the cost, or figure 3")
    _add_reproduce(parser)
    given, others = parser.parse_known_args(words)
    others = _joined(others)
    if given.seeds < 1:
        raise ConfigError(f"--seeds is {given.seeds}; take 1 or more")
    _refuse(others, "--seed", "reproduce takes --seeds N, for seeds 0 to N-1")
    _refuse_nowhere(given.evidence)
    budget = budget_of(given.budget)

    def read(recipe: str, more: Sequence[str]) -> "Config":
        return settings_of([recipe, *more], command=f"{parser.prog} TARGET", add_extras=_add_reproduce).config

    runs = reproducing.plan(
        given.target,
        read,
        rows=list(filter(None, given.rows.split(","))),
        methods=list(filter(None, given.methods.split(","))),
        seeds=given.seeds,
        words=others,
        out=Path(given.out),
    )
    print(f"{len(runs)} runs in {given.out}", flush=True)
    evidence = Path(given.evidence)
    done = reproducing.reproduce(
        runs, evidence, budget=budget, tell=lambda line: print(line, flush=True), interrupted=signals
    )
    if done and given.target == "figure3":
        print(reproducing.figure3(runs[0], evidence))
    print(evidence / "README.md")
    if not done:
        why = "the budget is used up" if budget.spent() else "stopped in time"
        raise Paused(f"{why}; the same command goes on where this one stopped")


def _joined(words: Sequence[str]) -> list[str]:
    """`--option value` as one word, so that it can be taken or left as one."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _add_reproduce(parser: Any) -> None:
    """To either kind of parser: the command's own, and the one that names a near miss."""
    parser.add_argument("--rows", type=str, default="", help="networks, comma-separated; the table's otherwise")
    parser.add_argument("--methods", type=str, default="", help="methods, comma-separated; the table's otherwise")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N-1 of each run; >= 1")
    parser.add_argument("--budget", type=str, default=None, help=BUDGET)
    parser.add_argument("--out", type=str, default="runs/reproduce", help="the folder of all runs")
    parser.add_argument("--evidence", type=str, default="evidence", help="the folder of ledger.json")
