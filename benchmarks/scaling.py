"""How time and memory grow: of an update of the generator and of the student's step, and over a thousand of them.

Usage:
    python benchmarks/scaling.py [--quick] [--json]

One thing grows at a time, the others stay at the middle: ResNet10, a batch of 64, a mirror generator, 4 stages, 100
classes, images of 32 x 32 pixels (--quick: a quarter of the width, a batch of 16, and 4 x 4 pixels where the training
set grows). The precision and memory format are those that a run takes on this machine. The axes:

    batch     images of a batch, and of the held-out batch
    width     d, channels of every map of the generator, or mirror
    stages    K; a stage more is one residual block more, of twice the channels at half the side
    classes   C
    images    of the training set: what a batch of each stream costs (train, and of the meta step disjoint, halves), at
              the first step of an epoch, which draws the epoch's orders and augmentation, and at the others

Of the first four a row has student_ms (the student's forward and backward pass), shared_ms (what the generator's
gradient adds to it, with the student's gradient as look-ahead) and own_ms (the generator's gradient with a look-ahead
of its own), and the peak memory of the student's pass, of the pass with what is added, and of own, in MiB that torch
has allocated above what it held before. The values of an axis take turns, and so do the forms; times are medians.
"exponents" are the slopes of the logarithms along the batch: 1 is proportional.

First of all, memory over time: the engine's own steps, each with one update of the generator, of WRN-10-1 at a batch
of 4 images of 16 x 16 pixels, and what the system says that the process has in use after 10 of them and after 1,000;
garbage is not collected by hand. memory_1000_vs_10 is the ratio with the shared look-ahead,
which is the default.

To standard error what is measured; with --json the last line of standard output is one object.
"""

import argparse
import gc
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from _measure import environment, medians, milliseconds, peak_memory_mb, print_json, resident_mb, rounded, say
from _meta_forms import SIDE, Scene, machine_of, network_of, own_step, shared_step, student_step
from torchvision.models.resnet import BasicBlock

from metadistiller.assemble import assemble
from metadistiller.config import Choice, Config, Optim
from metadistiller.data import Augment, Batches, Dataset, Disjoint, Halves, ImageSet, Stream, Train, seeded
from metadistiller.engine.machine import keep_freed_memory
from metadistiller.engine.step import Stepper
from metadistiller.nn import Backbone
from metadistiller.nn.backbones.resnet import ResNet

FORMS = {"student": student_step, "shared_step": shared_step, "own": own_step}
VALUES: dict[str, tuple[Any, ...]] = {
    "batch": (16, 32, 64, 128),
    "width": (16, 64, 128, "mirror"),
    "stages": (2, 3, 4, 5),
    "classes": (10, 100, 1000),
}
QUICK: dict[str, tuple[Any, ...]] = {
    "batch": (16, 64, 128),
    "width": (16, "mirror"),
    "stages": (3, 4),
    "classes": (10, 1000),
}
IMAGES = (5_000, 50_000, 500_000)
MARKS = (10, 1000)


# -- one thing grows ---------------------------------------------------------------------------------------------------


def stages_of(count: int, width: int) -> Backbone:
    """A ResNet of one basic block a stage, as ResNet10 is with four."""
    with seeded(0, "backbone"):
        return ResNet(100, block=BasicBlock, blocks=(1,) * count, stem="cifar", width=width)


def scenes_of(axis: str, values: Sequence[Any], *, width: int, batch: int) -> dict[Any, Scene]:
    """By value of one axis what is measured; `width` is the network's, `batch` the middle."""
    model = Choice(name="resnet10", options={"width": width})
    machine = machine_of(model)
    match axis:
        case "batch":
            return {value: Scene.of(network_of(model), value, machine) for value in values}
        case "width":
            return {value: Scene.of(network_of(model), batch, machine, width=value) for value in values}
        case "stages":
            return {value: Scene.of(stages_of(value, width), batch, machine) for value in values}
        case "classes":
            return {value: Scene.of(network_of(model, value), batch, machine) for value in values}
    raise ValueError(f"axis is {axis!r}; take batch, width, stages or classes")


def grow(axis: str, scenes: Mapping[Any, Scene], *, repeats: int) -> list[dict[str, Any]]:
    """One row for each value."""
    say(f"{axis}: {', '.join(map(str, scenes))}")
    steps = {
        (value, form): (lambda step=step, scene=scene: step(scene))
        for value, scene in scenes.items()
        for form, step in FORMS.items()
    }
    device = next(iter(scenes.values())).machine.device
    peaks = {key: peak_memory_mb(step, device) for key, step in steps.items()}
    times = medians(steps, device=device, repeats=repeats, warmup=0)
    rows = []
    for value in scenes:
        student, whole = times[value, "student"], times[value, "shared_step"]
        row = {"axis": axis, "value": value, "student_ms": student, "shared_ms": whole - student}
        row |= {"shared_step_ms": whole, "own_ms": times[value, "own"]}
        row |= {f"{form}_mb": peaks[value, form] for form in FORMS}
        rows.append(row)
        say(line(row))
    return rows


def line(row: Mapping[str, Any]) -> str:
    return "  " + ", ".join(f"{key} {part}" for key, part in rounded(row, 3).items() if key != "axis")


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each time and memory the slope of its logarithm along that of the value, by least squares; None where noise
    has made a difference of times negative.
    """
    x = [math.log(row["value"]) for row in rows]
    columns = {key: [row[key] for row in rows] for key in rows[0] if key not in ("axis", "value")}
    return {
        key: statistics.linear_regression(x, [math.log(part) for part in column]).slope if min(column) > 0 else None
        for key, column in columns.items()
    }


# -- the training set --------------------------------------------------------------------------------------------------


def black_images(count: int, side: int) -> Dataset:
    """Black ones: no time depends on the pixels."""
    whole = ImageSet(torch.zeros(count, 3, side, side, dtype=torch.uint8), torch.arange(count) % 100)
    return Dataset(
        name="black",
        train=whole,
        test=whole.take(torch.arange(100)),
        classes=tuple(map(str, range(100))),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=Augment(),
        source="nowhere",
    )


def data_row(count: int, batch: int, *, side: int, epochs: int, steps: int) -> dict[str, Any]:
    """Milliseconds of a batch of each stream, asked for in the order of a step."""
    machine = machine_of(Choice(name="resnet10"))
    view = black_images(count, side).training_view(seed=0, device=machine.device, memory_format=machine.memory_format)
    batches = Batches(view, batch_size=batch)
    streams: dict[str, Stream] = {"train": Train(), "disjoint": Disjoint(), "halves": Halves()}
    first: dict[str, list[float]] = {name: [] for name in streams}
    others: dict[str, list[float]] = {name: [] for name in streams}
    # The first epoch warms up.
    for epoch in range(epochs + 1):
        for step in range(steps):
            for name, stream in streams.items():
                ask = partial(batches.batch, stream, epoch=epoch, step=step)
                taken = milliseconds(ask, machine.device)
                if epoch:
                    (others if step else first)[name].append(taken)
    row: dict[str, Any] = {"axis": "images", "value": count, "batch": batch, "side": side}
    row |= {f"{name}_ms": statistics.median(times) for name, times in others.items()}
    row |= {f"{name}_first_step_ms": statistics.median(times) for name, times in first.items()}
    say(line(row))
    return row


# -- a thousand updates ------------------------------------------------------------------------------------------------


def resident_over_steps(
    model: Choice,
    *,
    lookahead: Literal["shared", "own"],
    marks: Sequence[int] = MARKS,
    batch: int = 4,
    images: int = 320,
    side: int = 16,
) -> dict[int, float]:
    """MiB that the process has in use after so many steps with an update of the generator in each.

    With one thread: layers as small as these are no faster with more, and slower where others use the machine.
    """
    config = Config(
        data=Choice(name="cifar100"),
        model=model,
        method=Choice(name="metadistiller", options={"lookahead": lookahead, "meta_every_epochs": 1}),
        optim=Optim(lr=0.01),
        batch_size=batch,
        threads=1,
    )
    threads = torch.get_num_threads()
    stepper = Stepper(assemble(config, black_images(images, side)))
    found = {}
    for count in range(max(marks)):
        epoch, step = divmod(count, stepper.steps_per_epoch)
        if step == 0:
            stepper.begin_epoch(epoch)
        stepper.step(step)
        if count + 1 in marks:
            found[count + 1] = resident_mb()
            say(f"  {lookahead}: {found[count + 1]:.1f} MiB after {count + 1} steps")
    torch.set_num_threads(threads)
    return found


# -- all ---------------------------------------------------------------------------------------------------------------


def benchmark(*, quick: bool) -> dict[str, Any]:
    """What --json prints."""
    width, batch, repeats = (16, 16, 2) if quick else (64, 64, 7)
    say("resident memory")
    resident = {}
    for lookahead in ("shared", "own")[: 1 if quick else 2]:
        resident[lookahead] = resident_over_steps(Choice(name="wrn10_1"), lookahead=lookahead)
    rows: list[dict[str, Any]] = []
    for axis, values in (QUICK if quick else VALUES).items():
        rows += grow(axis, scenes_of(axis, values, width=width, batch=batch), repeats=repeats)
        gc.collect()
    slopes = exponents([row for row in rows if row["axis"] == "batch"])
    say("images")
    side, epochs, steps = (4, 2, 10) if quick else (SIDE, 5, 30)
    rows += [data_row(count, batch, side=side, epochs=epochs, steps=steps) for count in IMAGES]
    model = Choice(name="resnet10", options={"width": width})
    machine = machine_of(model)
    described = machine.describe()
    first, last = MARKS
    return rounded(
        {
            "memory_1000_vs_10": resident["shared"][last] / resident["shared"][first],
            "memory_own_1000_vs_10": resident["own"][last] / resident["own"][first] if "own" in resident else None,
            "resident_mb": resident,
            "rows": rows,
            "exponents": {"batch": slopes},
            "middle": {"network": model.as_dict(), "batch": batch, "repeats": repeats},
            "formats": [described["precision"], described["memory_format"]],
            "environment": environment(machine.device),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and few turns: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    given = parser.parse_args()
    # As the command does.
    kept = keep_freed_memory()
    result = benchmark(quick=given.quick)
    result["environment"]["freed_memory_kept"] = kept
    if given.json:
        print_json(result)


if __name__ == "__main__":
    main()
