"""What training on many GPUs takes: time, cost, what is exchanged, and where the meta step stops scaling.

    python benchmarks/plan.py --markdown docs/scaling.md
    python benchmarks/plan.py --images_per_second 1250 --json

Nothing is measured here. Bytes, messages and operations are those of benchmarks/exchanges.py, decoding is
benchmarks/decoding.py's; what a GPU, a network and an hour are like is an argument, and an assumption.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _measure import print_json
from _plan_page import written
from exchanges import Lookahead, Macs, Message, Step, step_from

RESULTS = Path(__file__).parent / "results"
EXCHANGES = RESULTS / "exchanges_2026-11-24.json"
DECODING = RESULTS / "decoding_epyc-2cores_2026-11-22.json"
NETWORK = "resnet50, ImageNet, generator 128"
IMAGENET, EPOCHS, BILLION = 1_281_167, 90, 1_000_000_000
# GPUs, images of each in a step: the last is the largest batch (16,384) that published recipes of 90 epochs reach.
SHAPES = ((1, 128), (8, 128), (64, 64), (512, 32))
KIB_PER_IMAGE = 110  # of ImageNet's JPEGs


@dataclass(frozen=True)
class Given:
    """Assumptions. Units as named; a GPU is one of NVIDIA's H100 class."""

    images_per_second: float = 2500.0
    price_per_hour: float = 2.5
    inside_gb_per_second: float = 300.0
    between_gb_per_second: float = 40.0
    inside_microseconds: float = 15.0
    between_microseconds: float = 30.0
    launch_microseconds: float = 5.0
    gpus_a_machine: int = 8
    meta_every_epochs: int = 5
    lookahead: Lookahead = "shared"


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of a step on each GPU."""

    compute: float
    exchange: float

    @property
    def total(self) -> float:
        return self.compute + self.exchange


@dataclass(frozen=True)
class Network:
    """What was counted of one network."""

    macs: Macs
    plain: Step
    boosted: Step

    @classmethod
    def read(cls, given: Given, name: str = NETWORK, path: Path = EXCHANGES) -> "Network":
        found = json.loads(path.read_text(encoding="utf-8"))["networks"][name]
        steps = found["steps"]
        return cls(Macs(**found["macs"]), step_from(steps["plain"]), step_from(steps[given.lookahead]))


def exchange(messages: Sequence[Message], gpus: int, given: Given) -> float:
    """Milliseconds; nothing overlaps it. A ring sends 2 (N - 1) / N of a sum's bytes, N - 1 parts of a gathering."""
    if gpus == 1:
        return 0.0
    inside = gpus <= given.gpus_a_machine
    rate = 1e9 * (given.inside_gb_per_second if inside else given.between_gb_per_second)
    latency = 1e-6 * (given.inside_microseconds if inside else given.between_microseconds) * math.log2(gpus)
    seconds = 0.0
    for message in messages:
        sent = message.size * (2 * (gpus - 1) / gpus if message.kind == "sum" else gpus - 1)
        seconds += message.times * (sent / rate + latency)
    return 1000 * seconds


def messages_of(parts: Any) -> list[Message]:
    return [message for part in parts for message in part.messages]


def floor(operations: int, given: Given) -> float:
    """Milliseconds below which a step does not come, however few its images: each operation is launched."""
    return operations * given.launch_microseconds / 1000


def step_times(network: Network, gpus: int, images: int, given: Given) -> dict[str, StepTime]:
    """Of plain training, of the student's step, and what a meta step adds to it."""
    plain = 1000 * images / given.images_per_second
    student, meta = network.macs.student_step, network.macs.meta_step(given.lookahead)
    steps = network.boosted
    return {
        "plain": StepTime(
            max(plain, floor(network.plain.operations, given)),
            exchange(messages_of(network.plain.student), gpus, given),
        ),
        "student": StepTime(
            max(plain * student, floor(steps.operations, given)), exchange(messages_of(steps.student), gpus, given)
        ),
        "meta": StepTime(
            max(plain * meta, floor(steps.meta_operations, given)), exchange(messages_of(steps.meta), gpus, given)
        ),
    }


def epoch_seconds(times: Mapping[str, StepTime], images: int, batch: int, every: int) -> tuple[float, float]:
    """Of plain training, and of MetaDistiller with a meta epoch in each so-manieth."""
    steps = math.ceil(images / batch)
    boosted = times["student"].total + times["meta"].total / every
    return steps * times["plain"].total / 1000, steps * boosted / 1000


def row(network: Network, gpus: int, images: int, given: Given) -> dict[str, Any]:
    times = step_times(network, gpus, images, given)
    batch = gpus * images
    plain, boosted = epoch_seconds(times, IMAGENET, batch, given.meta_every_epochs)
    hours = EPOCHS * boosted / 3600
    return {
        "gpus": gpus,
        "images": images,
        "batch": batch,
        "times": {name: {"compute": time.compute, "exchange": time.exchange} for name, time in times.items()},
        "plain_hours": EPOCHS * plain / 3600,
        "hours": hours,
        "dollars": hours * gpus * given.price_per_hour,
        "ratio": boosted / plain,
        "images_per_second": IMAGENET / boosted,
        "billion_hours": epoch_seconds(times, BILLION, batch, given.meta_every_epochs)[1] / 3600,
    }


def plan(given: Given) -> dict[str, Any]:
    network = Network.read(given)
    decoding = json.loads(DECODING.read_text(encoding="utf-8"))["folders"]["photos375"]["images_per_second"]
    return {
        "given": vars(given),
        "student_step": network.macs.student_step,
        "meta_step": network.macs.meta_step(given.lookahead),
        "floors": {
            "student": floor(network.boosted.operations, given),
            "meta": floor(network.boosted.meta_operations, given),
        },
        "layers": {
            kind: {"messages": sum(m.times for m in found), "milliseconds_on_512": exchange(found, 512, given)}
            for kind, found in (
                ("student", network.boosted.student_layers),
                ("meta", network.boosted.meta_layers),
            )
        },
        "bytes": {
            "plain": sum(m.size for m in messages_of(network.plain.student)),
            "student": sum(m.size for m in messages_of(network.boosted.student)),
            "meta": sum(m.size for m in messages_of(network.boosted.meta)),
        },
        "decoded_per_core": decoding["1 threads"]["median"],
        "rows": [row(network, gpus, images, given) for gpus, images in SHAPES],
    }


def page(given: Given) -> str:
    """docs/scaling.md."""
    others = {factor: plan(replace(given, images_per_second=factor * given.images_per_second)) for factor in (0.5, 2.0)}
    return written(
        plan(given),
        others,
        images_per_second=given.images_per_second,
        epochs=EPOCHS,
        network=NETWORK,
        kib=KIB_PER_IMAGE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Given()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--markdown", type=Path, help="the page to write")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    words = vars(parser.parse_args())
    markdown, as_json = words.pop("markdown"), words.pop("json")
    given = Given(**words)
    if markdown is not None:
        markdown.write_text(page(given), encoding="utf-8")
    if as_json or markdown is None:
        print_json(plan(given))


if __name__ == "__main__":
    main()
