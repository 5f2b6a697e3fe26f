"""From a finished run folder to a record."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ..config import Config
from ..errors import CheckpointError, LedgerError
from ..records import RunFolder, read_json
from ._record import Hardware, Images, Record, TeacherRun, is_same_everywhere
from ._targets import targets_of

_Kind = TypeVar("_Kind", Hardware, Images, TeacherRun)

PLACE = "FOLDER"  # what stands in a record for a path of somebody's machine

# What says where and how a run was computed or watched, and not what was trained.
NOT_OVERRIDES = frozenset(
    (
        *("seed", "epochs", "device", "precision", "memory_format", "threads", "evaluate_every", "eval_batch_size"),
        *("checkpoint_every_steps", "keep_checkpoints", "data.workers", "data.download", "teacher.run"),
    )
)

_PATHS = frozenset(("weights", "data.root", "data.test", "data.images"))  # relative ones too

# Settings that came after runs had been made without them, and what those did.
BEFORE: Mapping[str, Any] = {
    "heldout_share": 0.0,
    "method.generator_norm": "none",
    "method.generator_kl_weight": 0.0,
    "method.generator_warmup_epochs": 0,
}


def record_of(
    folder: RunFolder, recipe: str, config: Config, *, own: Config | None = None, command: str | None = None
) -> Record:
    """The record of a finished run.

    Args:
        folder: of the run.
        recipe: the name of the recipe that it is a run of.
        config: that recipe's, with every default written out (building.written_out), so that it can be compared.
        own: the same with the run's data, network, method and teacher, at their own defaults, in place of others
            (building.with_members); None where the run has no others.
        command: one that makes the run; None takes the one that began it.
    Raises: CheckpointError where the folder is none of a finished run; LedgerError where the run has a setting that
        neither of the two knows, or a member that `own` has not.
    """
    if not folder.finished:
        raise CheckpointError(f"{folder} is not finished; finish it with 'metadistiller resume {folder}'")
    result, written, events = read_json(folder.result), folder.read_config(), list(folder.read_events())
    try:
        settings = _trained(written)
        started = [event for event in events if event["event"] in ("start", "resume")]
        teachers = [event for event in events if event["event"] == "teacher"]
        environment = started[-1]["environment"]
        # Of a run that was begun by an older version, nobody knows.
        images = started[0].get("images")
        finished = datetime.fromtimestamp(folder.result.stat().st_mtime, tz=timezone.utc)
        return Record(
            recipe=recipe,
            network=result["network"],
            method=result["method"],
            data=result["data"],
            seed=result["seed"],
            exits=tuple(result["exits"]),
            final=result["final"],
            ensemble=result["ensemble"],
            epochs=result["epochs"],
            paper_epochs=config.epochs,
            # Older runs do not say where their teacher was trained.
            teacher=_taken(TeacherRun, {"device": None, **teachers[-1]}) if teachers else None,
            overrides=_overrides(settings, config.as_dict(), (own or config).as_dict()),
            command=portable(started[0]["command"] if command is None else command),
            commit=_commit(event["environment"].get("commit") for event in started),
            package=environment["package"],
            hardware=_taken(Hardware, environment),
            seconds=result["seconds"],
            peak_memory_mb=result["peak_memory_mb"],
            date=finished.strftime("%Y-%m-%dT%H:%M:%SZ"),
            targets=targets_of(_rows(folder), events, written),
            images=None if images is None else _taken(Images, images),
            settings=settings,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not hold what a finished run writes ({type(error).__name__}: {error}); "
            "it was damaged or edited"
        ) from None


def relative_to(record: Record, config: Config, *, own: Config | None = None) -> Record:
    """The same record, with what differs from these settings as its overrides: the recipe's as they are now.

    Args:
        record: one with settings.
        config, own: as for record_of.
    Raises: LedgerError as there.
    """
    assert record.settings is not None
    changed = _overrides(record.settings, config.as_dict(), (own or config).as_dict())
    return replace(record, overrides=changed, paper_epochs=config.epochs)


def _trained(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of config.yaml what says what was trained, in the same nesting, without the way to a file or folder."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            inner = of_training({f"{key}.{name}": item for name, item in value.items()})
            found[key] = {name.removeprefix(f"{key}."): _named(item, name in _PATHS) for name, item in inner.items()}
        elif key not in NOT_OVERRIDES:
            found[key] = _named(value, key in _PATHS)
    if is_same_everywhere(found["data"]["name"]):
        found["data"].pop("root", None)
    return found


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    rows = folder.read_rows()
    if not rows:
        raise ValueError(f"{folder.results.name} has no rows")
    return rows


def _taken(kind: type[_Kind], values: Mapping[str, Any]) -> _Kind:
    """The fields of a dataclass, from something that has them and more."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def _commit(found: Iterable[str | None]) -> str | None:
    """Of all sittings one after the other: the one that all agree on, or each that there is, in order."""
    commits = list(dict.fromkeys(found))
    if len(commits) == 1:
        return commits[0]
    return ", ".join(commit or "unknown" for commit in commits)


def of_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted name, those that say what was trained, and not where, how, how long or with which seed."""
    return {key: value for key, value in settings.items() if key not in NOT_OVERRIDES}


def _overrides(run: Mapping[str, Any], recipe: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What differs, by dotted name, sorted: of another member than the recipe's its name, and what differs from its own
    defaults. A setting that the run does not have yet, being older, is what was done before it came (BEFORE), or null
    where that is not known.

    Args:
        run: as _trained leaves them.
    """
    found: dict[str, Any] = {}
    for key in sorted({*run, *recipe}):
        ours, theirs = run.get(key, BEFORE.get(key)), recipe.get(key)
        if not isinstance(ours, dict):
            # Also a teacher where the recipe has one and the run has none.
            found |= {key: ours} if ours != theirs else {}
            continue
        theirs, defaults = theirs or {}, own.get(key) or {}
        name = ours.get("name")
        if name != defaults.get("name"):
            raise LedgerError(
                f"the run has {key} {name!r}, and nobody says what that is by default; hand that in "
                "(building.with_members)"
            )
        found |= {f"{key}.name": name} if name != theirs.get("name") else {}
        for inner in sorted({*ours, *defaults}):
            if inner in ours and inner not in defaults:
                raise LedgerError(
                    f"the run has {key}.{inner}, the recipe has no such setting; write the recipe's defaults out "
                    "(building.written_out), or enter the run with the version that made it"
                )
            value = ours.get(inner, BEFORE.get(f"{key}.{inner}"))
            found |= {f"{key}.{inner}": value} if value != defaults.get(inner) else {}
    if is_same_everywhere(run["data"]["name"]):
        found.pop("data.root", None)
    return dict(sorted(of_training(found).items()))


def _named(value: Any, is_path: bool = False) -> Any:
    """A setting without the way to a file or folder: its own name tells it from another's, on every machine."""
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    if not isinstance(value, str):
        return value
    if is_path or _BEGINS.match(value):
        return _last(value)
    return _PATH.sub(lambda found: _last(found[0]), value)


def _last(path: str) -> str:
    name = PurePosixPath(path.partition(":")[2] if _ADDRESS.match(path) else path).name
    return name if name.strip(".~") else PLACE


# Also as an address without a host, file:///home/a; https://example.org/a means the same everywhere.
_PATH_BEGINS = r"(?:file:|[a-z][a-z0-9+.-]*://)?[~/]"
_PATH = re.compile(rf"""(?:(?<=[\s=,'"\[{{(])|^){_PATH_BEGINS}[^\s,'"\]}})]*""", re.IGNORECASE)

_ADDRESS = re.compile(r"(?:file:|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
_BEGINS = re.compile(_PATH_BEGINS, re.IGNORECASE)


def portable(text: str) -> str:
    """A command without paths that mean something on one machine only; relative ones stay."""
    try:
        words = shlex.split(text)
    except ValueError:
        return _PATH.sub(PLACE, text)
    if not any(_PATH.search(word) for word in words):
        return text
    replaced = []
    for word in words:
        option, equals, value = word.partition("=")
        if _PATH.match(word):
            replaced.append(PLACE)
        elif equals and _PATH.match(value):
            replaced.append(f"{option}={PLACE}")
        else:
            replaced.append(_PATH.sub(PLACE, word))
    return shlex.join(replaced)
