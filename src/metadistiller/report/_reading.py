"""A finished run folder, read and checked once, so that the page need not doubt it.

Class names come from folder names: here they lose what cannot be printed (control characters, lone
surrogates, marks that turn the direction of text). Escaping for HTML is the template's work.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metadistiller import outcomes
from metadistiller.errors import CheckpointError
from metadistiller.outcomes import chosen, mistakes
from metadistiller.outcomes.mistakes import checked_png
from metadistiller.records import RunFolder, read_json
from metadistiller.timing import profile_of

from ._judging import Judged, judge
from ._run import Entropy, Epoch, Evaluation, Exhibit, Output, Result, Run, Series, Sitting


def printable(text: str) -> str:
    """The text with every character that cannot be printed shown as U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold what a finished run writes ({type(error).__name__}: {error}); "
            "it was damaged or edited"
        ) from None


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def read(folder: RunFolder) -> Run:
    """The run in a folder.

    Raises: CheckpointError where it is not finished, or a file is missing, damaged or at odds with another.
    """
    if not folder.finished:
        raise CheckpointError(
            f"{folder} is not finished (no {folder.result.name} in it); finish it with 'metadistiller resume {folder}'"
        )
    for path in (folder.results, folder.events):
        if not path.is_file():
            raise CheckpointError(f"{path} is not there; a finished run has one, so bring it back or train anew")
    with _parsing(folder.config):
        values = folder.read_config()
        _check(isinstance(values["optim"]["schedule"], str), "optim.schedule is no word")
    with _parsing(folder.result):
        result = _result(read_json(folder.result))
    with _parsing(folder.evaluation):
        evaluation = _evaluation(read_json(folder.evaluation))
    _check_agreement(folder, result, evaluation)
    num_classes = len(evaluation.classes)
    with _parsing(folder.soft_targets):
        told = read_json(folder.soft_targets)
        exhibits, entropy = read_exhibits(told, num_classes=num_classes), read_entropy(told)
    with _parsing(folder.results):
        series = _series(folder.read_rows())
    with _parsing(folder.events):
        events = list(folder.read_events())
        starts = [event for event in events if event["event"] in ("start", "resume")]
        # A resumed run does its last epochs again; what was timed last is what the results hold.
        timed = {event["epoch"]: _epoch(event) for event in events if event["event"] == "epoch"}
        profile = profile_of(events)
        # Sittings before the first that says it are of an older version; all say the same.
        said = [dict(event["changed"]) for event in starts if "changed" in event]
        environment = dict(starts[-1]["environment"])
        sittings = tuple(
            Sitting(
                command=printable(str(event["command"])),
                epoch=int(event.get("epoch", 0)),
                step=int(event.get("step", 0)),
            )
            for event in starts
        )
    return Run(
        name=printable(folder.path.resolve().name),
        settings=folder.config.read_text(encoding="utf-8"),
        values=values,
        changed=said[0] if said else None,
        result=result,
        evaluation=evaluation,
        exhibits=exhibits,
        entropy=entropy,
        mistakes=mistakes.read(folder.mistakes, num_classes=num_classes) if folder.mistakes.exists() else None,
        judged=_judged(folder, evaluation),
        early_exit=_early_exit(folder, evaluation),
        series=series,
        epochs=tuple(timed[epoch] for epoch in sorted(timed)),
        environment=environment,
        sittings=sittings,
        profile=profile,
    )


def _result(values: Any) -> Result:
    return Result(
        method=printable(values["method"]),
        network=printable(values["network"]),
        data=printable(values["data"]),
        seed=int(values["seed"]) if "seed" in values else None,
        epochs=int(values["epochs"]),
        exits=tuple(float(percent) for percent in values["exits"]),
        final=float(values["final"]),
        ensemble=float(values["ensemble"]),
        seconds=float(values["seconds"]),
        peak_memory_mb=float(values["peak_memory_mb"]),
    )


def _evaluation(values: Any) -> Evaluation:
    count, classes = int(values["count"]), tuple(printable(name) for name in values["classes"])
    outputs = tuple(
        Output(name=printable(output["name"]), top1=int(output["top1"]), top5=int(output["top5"]))
        for output in values["outputs"]
    )
    confusion = tuple(tuple(int(cell) for cell in row) for row in values["confusion"])
    _check(count >= 1, f"count is {count}")
    _check(all(0 <= output.top1 <= output.top5 <= count for output in outputs), "counts out of range")
    _check(len(confusion) == len(classes), f"{len(confusion)} rows for {len(classes)} classes")
    _check(all(len(row) == len(classes) for row in confusion), "confusion is not square")
    return Evaluation(count=count, classes=classes, outputs=outputs, loss=float(values["loss"]), confusion=confusion)


def _check_agreement(folder: RunFolder, result: Result, evaluation: Evaluation) -> None:
    counted = {output.name: 100 * output.top1 / evaluation.count for output in evaluation.outputs}
    names = [*outcomes.output_names(len(result.exits) + 1), "ensemble"]
    for name, percent in zip(names, (*result.exits, result.final, result.ensemble), strict=True):
        if abs(counted.get(name, math.inf) - percent) > 0.01:
            raise CheckpointError(
                f"{folder.result} gives {percent} % for {name!r}, {folder.evaluation.name} has "
                f"{counted.get(name, 'nothing')}; they are not of the same run"
            )


def _judged(folder: RunFolder, evaluation: Evaluation) -> Judged | None:
    if not folder.outcomes.exists():
        return None
    found = outcomes.read(folder.outcomes)
    with _parsing(folder.outcomes):
        shape = (found.num_outputs, found.logits.shape[2], found.total)
        # The ensemble is no output of its own.
        wanted = (len(evaluation.outputs) - 1, len(evaluation.classes), evaluation.count)
        _check(shape == wanted, f"outputs, classes and images are {shape}, in {folder.evaluation.name} {wanted}")
        return judge(found)


def _early_exit(folder: RunFolder, evaluation: Evaluation) -> chosen.EarlyExit | None:
    if not folder.early_exit.exists():
        return None
    found = chosen.read(folder.early_exit)
    with _parsing(folder.early_exit):
        wanted = len(evaluation.outputs) - 1
        _check(len(found.policy.temperatures) == wanted, f"it is not of {wanted} outputs")
    return found


def read_exhibits(values: Any, *, num_classes: int) -> tuple[Exhibit, ...]:
    """From what soft_targets.json holds. Raises: KeyError, TypeError, ValueError where it does not."""
    exhibits = []
    for image in values["images"]:
        final = tuple(float(share) for share in image["final"])
        # A run from before they were recorded has no "exits" and no "index".
        targets, exits = (
            tuple(tuple(float(share) for share in shares) for shares in kind)
            for kind in (image["targets"], image.get("exits", ()))
        )
        _check(all(len(shares) == num_classes for shares in (final, *targets, *exits)), "shares are not C numbers")
        _check(not (targets and exits) or len(targets) == len(exits), f"{len(targets)} targets, {len(exits)} exits")
        _check(0 <= int(image["label"]) < num_classes, f"label is {image['label']}")
        exhibits.append(
            Exhibit(
                png=checked_png(image["png"]),
                index=int(image["index"]) if "index" in image else None,
                label=int(image["label"]),
                targets=targets,
                exits=exits,
                final=final,
            )
        )
    return tuple(exhibits)


def read_entropy(values: Any) -> Entropy | None:
    """From what soft_targets.json holds. Raises: KeyError, TypeError, ValueError where it does not."""
    if "entropy" not in values:
        return None
    means = values["entropy"]
    targets, exits = (tuple(float(mean) for mean in means[kind]) for kind in ("targets", "exits"))
    entropy = Entropy(count=int(means["count"]), targets=targets, exits=exits, final=float(means["final"]))
    _check(entropy.count >= 1, f"entropy is of {entropy.count} images")
    _check(all(0 <= mean < math.inf for mean in (*targets, *exits, entropy.final)), "entropies out of range")
    _check(len(targets) in (0, len(exits)), f"entropies of {len(targets)} targets, {len(exits)} exits")
    return entropy


def _series(rows: list[dict[str, str]]) -> dict[str, Series]:
    columns: dict[str, dict[int, float]] = {}
    for row in rows:
        epoch = int(row["epoch"]) + 1
        for name, cell in row.items():
            value = float(cell) if cell else math.nan
            if name != "epoch" and math.isfinite(value):
                columns.setdefault(printable(name), {})[epoch] = value
    return {name: Series(epochs=tuple(points), values=tuple(points.values())) for name, points in columns.items()}


def _epoch(event: dict[str, Any]) -> Epoch:
    return Epoch(
        epoch=int(event["epoch"]) + 1,
        seconds=float(event["epoch_seconds"]),
        images_per_second=float(event["images_per_second"]),
        objectives=tuple(str(name) for name in event["objectives"]),
    )
