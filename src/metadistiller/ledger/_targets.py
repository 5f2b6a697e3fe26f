"""The soft targets of a finished run over training, out of its results.csv.

How often the generator has learned is not written there. It follows from which epochs it learned in (those with a norm
of its gradient) and from the steps of an epoch, which the images of any whole epoch in events.jsonl give: a pass has
every image once, in batches of which the last alone may be short.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._record import MOST_EPOCHS, TargetsAt

Row = Mapping[str, str]

_KINDS = ("accuracy", "entropy", "confidence")


def targets_of(
    rows: Sequence[Row], events: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]
) -> tuple[TargetsAt, ...] | None:
    """At most 12 epochs, evenly over those that have soft targets, the first and the last of them included.

    Args:
        rows: of results.csv.
        events: of events.jsonl.
        settings: of config.yaml.
    Returns: None where no epoch has soft targets.
    Raises: KeyError, TypeError, ValueError where these are not of a finished run.
    """
    count = 0
    while any(f"target_{count + 1}_accuracy" in row for row in rows):
        count += 1
    exits = range(1, count + 1)
    known = [place for place, row in enumerate(rows) if count and all(_values(row, kind, exits) for kind in _KINDS)]
    if not known:
        return None
    steps = _generator_steps(rows, events, settings)
    return tuple(_at(rows[: place + 1], steps[place], exits) for place in _evenly(known))


def _at(rows: Sequence[Row], generator_steps: int | None, exits: Sequence[int]) -> TargetsAt:
    """Of the last of these rows; what only some epochs have, of the latest that has it."""
    row = rows[-1]
    means = {kind: _values(row, kind, exits) or () for kind in _KINDS}
    backwards = rows[::-1]

    def latest(kind: str, of: str) -> tuple[float, ...] | None:
        return next(filter(None, (_values(each, kind, exits, of) for each in backwards)), None)

    return TargetsAt(
        epoch=int(row["epoch"]),
        generator_steps=generator_steps,
        **means,
        heldout_loss=next((float(cell) for each in backwards if (cell := each.get("heldout_loss"))), None),
        target_gain=latest("gain", "target"),
        label_gain=latest("gain", "label"),
        target_alignment=latest("alignment", "target"),
        label_alignment=latest("alignment", "label"),
    )


def _values(row: Row, kind: str, exits: Sequence[int], of: str = "target") -> tuple[float, ...] | None:
    """Of every exit; None where one has none."""
    cells = [row.get(f"{of}_{k}_{kind}") for k in exits]
    return tuple(float(cell) for cell in cells if cell) if all(cells) else None


def _evenly(places: Sequence[int]) -> list[int]:
    last = len(places) - 1
    shares = min(last, MOST_EPOCHS - 1)
    return [places[round(last * share / shares)] for share in range(shares + 1)] if shares else list(places)


def _generator_steps(
    rows: Sequence[Row], events: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[int | None]:
    """Updates up to and including each epoch; None from the first on whose number cannot be told."""
    each = _steps_of_an_epoch(events, settings["batch_size"])
    # A run that is older than a setting learned in every step, and from labels never.
    every = settings["method"].get("meta_every_steps", 1)
    by_labels = settings["method"].get("generator_warmup_epochs", 0)
    done: int | None = 0
    found = []
    for row in rows:
        learned = row.get("generator_gradient_norm") or row.get("generator_warmup_gradient_norm")
        if learned and done is not None:
            done = None if each is None else done + math.ceil(each / (every if int(row["epoch"]) >= by_labels else 1))
        found.append(done)
    return found


def _steps_of_an_epoch(events: Iterable[Mapping[str, Any]], batch_size: int) -> int | None:
    """None where every epoch was interrupted: of such a one only the steps after the resume are known."""
    epochs, interrupted = [], set()
    for event in events:
        if event["event"] == "epoch" and event["images_per_second"] > 0:
            epochs.append(event)
        elif event["event"] == "resume" and event.get("step", 0):
            interrupted.add(event["epoch"])
    images = {
        round(event["epoch_seconds"] * event["images_per_second"])
        for event in epochs
        if event["epoch"] not in interrupted
    }
    return math.ceil(max(images) / batch_size) if images else None
