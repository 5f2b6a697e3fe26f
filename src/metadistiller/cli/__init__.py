"""The command `metadistiller`: words in, one function call, lines out.

Exit codes: 0 done, 1 the run failed, 2 the request cannot be meant, 3 stopped in time and saved (a budget of time, or
SIGTERM, SIGUSR1 or Ctrl-C to a command that trains), 130 interrupted (any other command, or a second Ctrl-C).

training.py   commands that train
looking.py    commands that look at what is there
answering.py  the command that answers
serving.py    the command that shows a run in a browser
calibrating.py  the command that lets easy images leave early
checking.py   the command that looks at a data set
shipping.py   commands that put a trained network to work
_words.py     reading words, printing tables
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from .._version import __version__
from ..errors import MetaDistillerError, Paused, UnknownName
from . import answering, calibrating, checking, looking, serving, shipping, training
from ._words import plain

SUMMARY = "More accurate image classifiers at no cost at inference."
INTERRUPTED = 130

COMMANDS: Mapping[str, Callable[[list[str]], None]] = {
    "train": training.train,
    "resume": training.resume,
    "evaluate": looking.evaluate,
    "compare": training.compare,
    "reproduce": training.reproduce,
    "inspect": looking.inspect,
    "predict": answering.predict,
    "app": serving.app,
    "check": checking.check,
    "list": looking.list_names,
    "export": shipping.export,
    "push": shipping.push,
    "calibrate": calibrating.calibrate,
    "figure3": looking.figure3,
    "report": looking.report,
}


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
        print(plain(str(error) if isinstance(error, Paused) else f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        print(plain(f"error: {error}; a run that had begun goes on with 'metadistiller resume RUN'"), file=sys.stderr)
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
