"""The trained second network of a run: fetched once, kept in the run's own folder, checked before it teaches."""

import os
import shutil
from pathlib import Path
from typing import Any

from ..config import Choice, Config, Teacher
from ..data import Dataset
from ..errors import CheckpointError, ConfigError
from ..nn import Backbone
from ..records import RunFolder, file_sha256, read_json
from .export import load_network


def finished_teacher(source: RunFolder) -> RunFolder:
    """The run itself. Raises: CheckpointError where it is not finished, or its network is missing."""
    if not source.finished:
        raise CheckpointError(
            f"the teacher {source} is not finished (no {source.result.name} in it); "
            f"finish it with 'metadistiller resume {source}', or take another --teacher"
        )
    if not source.weights.exists():
        raise CheckpointError(f"the teacher {source} has no {source.weights.name}; take another --teacher")
    return source


def keep_teacher(source: RunFolder, folder: RunFolder) -> None:
    """Put the network of a finished run into `folder` as teacher.safetensors, so that the student's run needs nobody
    else's folder any more; and an event that says which it is.

    Raises: CheckpointError as finished_teacher.
    """
    finished_teacher(source)
    result = read_json(source.result)
    devices = [event["environment"]["device"] for event in source.read_events() if "environment" in event]
    # Before the file is there: who is interrupted in between does both again, and the last event counts.
    folder.append_event(
        "teacher",
        **{key: result[key] for key in ("network", "epochs", "seconds", "final")},
        device=devices[-1] if devices else None,
        sha256=file_sha256(source.weights),
    )
    partial = folder.teacher.with_name(folder.teacher.name + ".tmp")
    partial.unlink(missing_ok=True)
    try:
        # Network files are replaced whole and never written into, so a link is as good as a copy and takes no space.
        os.link(source.weights, partial)
    except OSError:
        shutil.copyfile(source.weights, partial)
    partial.replace(folder.teacher)


def check_kept(folder: RunFolder) -> None:
    """Raises: CheckpointError where teacher.safetensors is not the file that the run began with."""
    known = [event["sha256"] for event in folder.read_events() if event["event"] == "teacher"]
    if not known or file_sha256(folder.teacher) != known[-1]:
        raise CheckpointError(
            f"{folder.teacher} is not the teacher that this run began with; put that one back, or start a new run"
        )


def load_teacher(path: Path, teacher: Teacher, *, config: Config, dataset: Dataset) -> Backbone:
    """The network in a file, as far as it can teach this run.

    Raises: CheckpointError where the file is damaged or holds another network than config.yaml says; ConfigError where
        it was trained for other classes, other images or another size of them.
    """
    found = load_network(path)
    model = dict(found.header["model"])
    trained = Choice(name=model.pop("name"), options=model)
    if (trained.name, dict(trained.options)) != (teacher.name, dict(teacher.options)):
        raise CheckpointError(
            f"{path} holds {trained.as_dict()}, the teacher of this run is {teacher.name} with {dict(teacher.options)}"
        )
    wanted: dict[str, list[Any]] = {"classes": list(dataset.classes), "size": list(dataset.size)}
    for what, ours in wanted.items():
        theirs = found.header[what]
        if theirs != ours:
            raise ConfigError(
                f"the teacher was trained for {_told(what, theirs)}, {config.data.name} has {_told(what, ours)}; "
                "train a teacher on the same data and size, or give --teacher.model NAME to have that done first"
            )
    for what, here in (("mean", list(dataset.mean)), ("std", list(dataset.std))):
        if found.header[what] != here:
            # Held-out images of this run may be among those that the teacher was trained on.
            raise ConfigError(
                f"the teacher was trained on other images: their {what} is {found.header[what]}, here it is {here}; "
                "take a teacher that was trained with the same data settings"
            )
    return found.network


def _told(what: str, value: list[Any]) -> str:
    if what == "size":
        return "images of {}x{} pixels".format(*value)
    names = ", ".join(map(str, value[:3]))
    return f"{len(value)} classes ({names}{' ...' if len(value) > 3 else ''})"
