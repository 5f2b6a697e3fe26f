"""From a finished run to a network that answers easy images early: thresholds for a target, and what they do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import outcomes as kept
from . import report
from .assemble import restore
from .data import Dataset, evaluation_images
from .engine.early_exit import EarlyExitClassifier, Shown, save_early_exit
from .engine.latency import SAMPLE, latencies
from .engine.machine import Machine, resolve
from .errors import CheckpointError, ConfigError, ExportError
from .outcomes import Outcomes, chosen
from .outcomes.choosing import Frontier, held_out
from .outcomes.chosen import EarlyExit, HeldOut, Row, Target
from .outcomes.policy import Policy, choices, confidences, loss, simulate
from .records import RunFolder

USUAL_LOSS = 0.5  # percentage points
OTHER_LOSSES = (0.0, 0.5, 1.0)  # for rows beside the one that was asked for
PROOF = 1000  # images that the classifier is asked, at most
PLAIN, CHOSEN = "plain network", "early exit"
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` found.

    Attributes:
        found: what early_exit.json holds.
        record, network: the files that it wrote.
    """

    found: EarlyExit
    record: Path
    network: Path


def calibrate(
    run: str | Path,
    *,
    max_loss: float | None = None,
    mean_macs: float | str | None = None,
    share: float = 0.5,
    latency: bool = True,
) -> Calibrated:
    """Choose when each exit of a finished run may answer, and measure what that does.

    A run trains on all of its training images and has no others, so a part of its test images chooses, and the rest,
    which chose nothing, is measured on. Writes RUN/early_exit.json and RUN/early_exit.safetensors, and the report anew.

    Args:
        max_loss: percentage points of accuracy that may be lost, >= 0; 0.5 where neither target is given.
        mean_macs: mean multiply-accumulates of an image, as a number, "40M", or a share of the plain network, "60%".
        share: of the test images that choose, above 0 and below 1.
        latency: whether it is measured, on this machine's best device.
    Raises: ConfigError for a target that cannot be meant or reached, and for a method without early exits;
        CheckpointError where the run is not finished; StageError; ExportError where the network that was written down
        does not answer as the run's outcomes say; DataError.
    """
    folder = RunFolder.open(run)
    if not folder.finished:
        raise CheckpointError(f"{run} is not finished; 'metadistiller resume {run}' finishes it")
    said = kept.read(folder.outcomes)
    if said.num_outputs < 2:
        method = folder.read_config().get("method") or {}
        name = method.get("name") if isinstance(method, dict) else None
        raise ConfigError(
            f"{run} was trained by {name}, which has no early exits; train with a method that has them, such "
            "as metadistiller or dsn"
        )
    target = _target(max_loss, mean_macs, said)
    choosing = held_out(said.labels, share)
    frontier, rest = Frontier(said.of(choosing)), said.of(~choosing)
    policies = _policies(frontier, target)
    restored = restore(run)
    machine = Machine.of(resolve(replace(restored.config, device="auto")))
    machine.place(restored.method)
    student = restored.method.multi_exit()
    assert student is not None
    shown = Shown.of(restored.dataset)
    networks = {name: EarlyExitClassifier(student, policy, shown) for name, policy in policies.items()}
    proved = _proved(networks[CHOSEN], restored.dataset, rest, machine, restored.config.eval_batch_size)
    measured = [_plain_row(rest), *(_row(name, policy, rest) for name, policy in policies.items())]
    if latency:
        images = _arranged(restored.dataset, rest.index[_sample(rest, policies)], machine)
        timed = latencies({PLAIN: restored.method.deployable(), **networks}, images)
        measured = [replace(row, latency=timed[row.name]) for row in measured]
    found = EarlyExit(
        target=target,
        held_out=HeldOut(
            share=share,
            chosen_on=int(choosing.sum()),
            measured_on=len(rest.labels),
            told=f"{choosing.sum():,} of the run's test images, evenly spread over each class, chose temperatures and "
            f"thresholds; everything told is of the other {len(rest.labels):,}",
        ),
        policy=policies[CHOSEN],
        measured=tuple(measured),
        proved=proved,
        machine=machine.describe() | {"precision": "float32"} if latency else None,
    )
    path = folder.early_exit.with_suffix(".safetensors")
    save_early_exit(networks[CHOSEN], path, model=restored.config.model)
    chosen.write(found, folder.early_exit)
    report.write(folder.path)
    return Calibrated(found, folder.early_exit, path)


def _target(max_loss: float | None, mean_macs: float | str | None, said: Outcomes) -> Target:
    if max_loss is not None and mean_macs is not None:
        raise ConfigError(f"max_loss is {max_loss:g} and mean_macs is {mean_macs}; give one target, not both")
    if mean_macs is None:
        return Target(max_loss=USUAL_LOSS if max_loss is None else max_loss)
    return Target(mean_macs=_macs(mean_macs, said.trunk_macs[-1]) if isinstance(mean_macs, str) else mean_macs)


def _macs(text: str, plain: int) -> float:
    """Of "60%", "40M", "1.2G" or "40000000"."""
    unit = text[-1:]
    factor = UNITS.get(unit)
    try:
        if unit == "%":
            return float(text[:-1]) * plain / 100
        return float(text) if factor is None else float(text[:-1]) * factor
    except ValueError:
        raise ConfigError(
            f"mean_macs is {text!r}; take multiply-accumulates, such as 40M or 1.2G, or a share of the plain "
            "network's, such as 60%"
        ) from None


def _policies(frontier: Frontier, target: Target) -> dict[str, Policy]:
    """What was asked for, and other targets as far as they are something else; by the name of their row."""
    if target.max_loss is not None:
        asked = frontier.cheapest(target.max_loss)
    else:
        assert target.mean_macs is not None
        asked = frontier.most_accurate(target.mean_macs)
    found = {CHOSEN: asked}
    for points in OTHER_LOSSES:
        other = frontier.cheapest(points)
        if other not in found.values() and any(value is not None for value in other.thresholds):
            found[str(Target(max_loss=points))] = other
    return found


def _plain_row(rest: Outcomes) -> Row:
    count = len(rest.labels)
    return Row(
        name=PLAIN,
        policy=None,
        accuracy=100 * float(rest.right[-1].mean()),
        loss=None,
        interval=None,
        macs=float(rest.trunk_macs[-1]),
        saved=0.0,
        left=(0,) * (rest.num_outputs - 1) + (count,),
    )


def _row(name: str, policy: Policy, rest: Outcomes) -> Row:
    found, lost = simulate(rest, policy), loss(rest, policy)
    used = any(value is not None for value in policy.thresholds)
    return Row(
        name=name,
        policy=policy,
        accuracy=found.accuracy,
        loss=lost.points,
        # Without an exit it is the plain network, and nothing is uncertain.
        interval=lost.interval if used else (0.0, 0.0),
        macs=found.macs,
        saved=100 * (1 - found.macs / rest.trunk_macs[-1]),
        left=found.left,
    )


def _proved(
    classifier: EarlyExitClassifier, dataset: Dataset, rest: Outcomes, machine: Machine, batch_size: int
) -> dict[str, int]:
    """Ask the classifier itself. Raises: ExportError where it does not do what the outcomes say."""
    places = np.linspace(0, len(rest.labels) - 1, min(PROOF, len(rest.labels))).round().astype(int)
    policy, same = classifier.policy, 0
    expected = choices(confidences(rest, policy.temperatures), policy.thresholds)[places]
    answers = rest.answers[expected, places]
    done = 0
    for images in _batches(dataset, rest.index[places], machine, batch_size):
        said = classifier(images)
        part = slice(done, done + len(images))
        same += int(
            ((said.exits.cpu().numpy() == expected[part]) & (said.answers.cpu().numpy() == answers[part])).sum()
        )
        done += len(images)
    # On another device a confidence may fall on the other side of a threshold, by rounding.
    if same < 0.99 * len(places):
        raise ExportError(
            f"of {len(places)} test images the early-exit network answers {len(places) - same} at another output, or "
            "otherwise, than the run's outcomes say; nothing was written. Please report this with the run's config.yaml"
        )
    return {"images": len(places), "same": same}


def _batches(dataset: Dataset, index: NDArray[np.int64], machine: Machine, batch_size: int) -> Iterator[Tensor]:
    for part in torch.split(torch.from_numpy(index), batch_size):
        yield machine.arrange(evaluation_images(dataset.test.pixels(part).to(machine.device), dataset))


def _arranged(dataset: Dataset, index: NDArray[np.int64], machine: Machine) -> Tensor:
    return next(_batches(dataset, index, machine, len(index)))


def _sample(rest: Outcomes, policies: Mapping[str, Policy]) -> NDArray[np.int64]:
    """Places of images of which each first part of a power of two leaves at each exit as many as of all do, nearly."""
    # lexsort's last key, here what was asked for, is the first to sort by.
    keys = [choices(confidences(rest, p.temperatures), p.thresholds) for p in reversed(list(policies.values()))]
    order = np.lexsort(keys)
    bits = SAMPLE.bit_length() - 1
    # Bits turned round: 0, 1/2, 1/4, 3/4, 1/8, ...
    turned = np.array([int(f"{place:0{bits}b}"[::-1], 2) for place in range(SAMPLE)])
    spread: NDArray[np.int64] = order[((turned + 0.5) * len(order) / SAMPLE).astype(int)]
    return spread
