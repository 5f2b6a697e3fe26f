"""What an epoch of training costs, each method against the loop of an ordinary script.

Usage:
    python benchmarks/epoch.py --json
    python benchmarks/epoch.py --networks wrn16_1,resnet18 --rounds 5 --json
    python benchmarks/epoch.py --quick --json

The reference trains the same network on the same images and batches as most scripts do: torchvision's CIFAR-100 data
set and transforms, a DataLoader with two workers, float32, default memory format, eager, torch's SGD. Ours are the
steps of the engine as `metadistiller train` takes them, data and all. Either runs in a process of its own, as a user's
would, and sleeps while the other is measured; they take turns, so that whatever else the machine does slows both alike.
Times are medians over all steps after the warm-up. Neither evaluates or saves.

An epoch of MetaDistiller is the average of M = 5: one meta epoch and four others. It is measured with the shared
look-ahead (the default) and with one of its own (Algorithm 1).

Pixels are random: no step's time depends on them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from _measure import environment, print_json, rounded, say
from torch import nn

from metadistiller.assemble import assemble
from metadistiller.building import written_out
from metadistiller.config import Choice, Config
from metadistiller.data import Augment, Dataset, ImageSet
from metadistiller.engine.machine import Machine, keep_freed_memory, resolve
from metadistiller.engine.step import Stepper
from metadistiller.nn import build_network

M = 5
IMAGES, CLASSES, BATCH = 50_000, 100, 128
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

# Label -> method, its options, epoch. Of MetaDistiller epoch 0 is a meta epoch and epoch 1 is not.
FORMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "plain": ("plain", {}, 0),
    "dsn": ("dsn", {}, 0),
    "self_distillation": ("self_distillation", {}, 0),
    "metadistiller, student": ("metadistiller", {"lookahead": "shared"}, 1),
    "metadistiller, meta, shared": ("metadistiller", {"lookahead": "shared"}, 0),
    "metadistiller, meta, own": ("metadistiller", {"lookahead": "own"}, 0),
}
# Steps of each form in a round, warm-up first: the heavier a network, the fewer.
STEPS = {"wrn16_1": (2, 6), "shufflenet_v2": (1, 3), "resnet50": (1, 1), "resnext29_2": (1, 1)}
NETWORKS = ("wrn16_1", "resnet18", "vgg19_bn", "mobilenet_v2", "shufflenet_v2", "resnext29_2", "resnet50")
# The mirror generator costs a multiple of a bottleneck network itself (docs/networks.md).
WIDTH = {"resnet50": 64, "resnext29_2": 64}


def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=drawn)
    return images, torch.arange(IMAGES) % CLASSES


class Side(Protocol):
    """One of the two processes."""

    def steps(self, network: str, form: str, warm_up: int, count: int) -> list[float]:
        """Seconds of each of `count` steps after the warm-up."""


class Reference:
    """The loop of an ordinary script."""

    def __init__(self) -> None:
        from torchvision import transforms
        from torchvision.datasets import CIFAR100

        images, labels = pixels()

        class InMemory(CIFAR100):
            """torchvision's own data set, but for where the pixels come from."""

            def __init__(self, transform: Callable[..., Any]) -> None:
                self.data = images.permute(0, 2, 3, 1).contiguous().numpy()
                self.targets = labels.tolist()
                self.transform, self.target_transform = transform, None

        pipeline = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        self.dataset = InMemory(pipeline)
        self.network: tuple[str, nn.Module, torch.optim.Optimizer] | None = None

    def steps(self, network: str, form: str, warm_up: int, count: int) -> list[float]:
        if self.network is None or self.network[0] != network:
            model = build_network(Choice(name=network), CLASSES).train()
            sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
            self.network = network, model, sgd
        _, model, optimizer = self.network
        criterion = nn.CrossEntropyLoss()
        loader = torch.utils.data.DataLoader(self.dataset, batch_size=BATCH, shuffle=True, num_workers=2)
        seconds, began, running = [], 0.0, 0.0
        for step, (images, labels) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
            now = time.perf_counter()
            if step >= warm_up:
                seconds.append(now - began)
            # The time of a step is that since the one before: waiting for the loader is in it.
            began = now
            if len(seconds) == count:
                break
        return seconds


class Ours:
    """The engine's steps, as the command takes them."""

    def __init__(self) -> None:
        keep_freed_memory()
        images, labels = pixels()
        few = torch.arange(CLASSES)
        whole = ImageSet(images, labels)
        self.dataset = Dataset(
            name="cifar100",
            train=whole,
            test=whole.take(few),
            classes=tuple(map(str, range(CLASSES))),
            mean=MEAN,
            std=STD,
            augment=Augment(),
            source="random pixels",
        )
        self.network = ""
        self.steppers: dict[str, Stepper] = {}
        self.place = 0

    def steps(self, network: str, form: str, warm_up: int, count: int) -> list[float]:
        method, options, epoch = FORMS[form]
        if method == "metadistiller" and network in WIDTH:
            options = {**options, "generator_width": WIDTH[network]}
        if network != self.network:
            self.network, self.steppers = network, {}
        key = f"{method} {options}"
        if key not in self.steppers:
            self.steppers[key] = Stepper(assemble(config_of(network, method, options), self.dataset))
        stepper = self.steppers[key]
        stepper.begin_epoch(epoch)
        seconds = []
        for turn in range(warm_up + count):
            began = time.perf_counter()
            stepper.step(self.place)
            self.place = (self.place + 1) % (stepper.steps_per_epoch - 1)
            if turn >= warm_up:
                seconds.append(time.perf_counter() - began)
        return seconds


def config_of(network: str, method: str, options: dict[str, Any]) -> Config:
    return Config(
        data=Choice(name="cifar100"),
        model=Choice(name=network),
        method=Choice(name=method, options=options),
        batch_size=BATCH,
    )


# -- two processes -----------------------------------------------------------------------------------------------------


def serve(side: Side) -> None:
    """Answer each line of standard input, [network, form, warm-up, steps], with the seconds of the steps."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(side.steps(*json.loads(line))), flush=True)


class Process:
    """One side, in a process of its own."""

    def __init__(self, side: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked, self.told = self.process.stdin, self.process.stdout

    def ready(self) -> None:
        self._line()

    def steps(self, network: str, form: str, warm_up: int, count: int) -> list[float]:
        self.asked.write(json.dumps([network, form, warm_up, count]) + "\n")
        self.asked.flush()
        seconds: list[float] = json.loads(self._line())
        return seconds

    def end(self) -> None:
        self.asked.close()
        self.process.wait()

    def _line(self) -> str:
        line = self.told.readline()
        if not line:
            raise SystemExit(f"the process {self.process.args} ended early; its message stands above")
        return line


def measure(networks: list[str], forms: list[str], *, rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """Median seconds of a step of each network and form; "reference" is one of the forms."""
    sides = {"reference": Process("reference"), "ours": Process("ours")}
    try:
        for side in sides.values():
            side.ready()
        found = {}
        for network in networks:
            warm_up, count = (1, 2) if quick and network != "wrn16_1" else STEPS.get(network, (1, 2))
            times: dict[str, list[float]] = {form: [] for form in ["reference", *forms]}
            for turn in range(rounds):
                for form in times:
                    side = sides["reference" if form == "reference" else "ours"]
                    times[form] += side.steps(network, form, warm_up, count)
                    say(f"{network} round {turn + 1}: {form} {1000 * statistics.median(times[form]):,.0f} ms a step")
            found[network] = {form: statistics.median(seconds) for form, seconds in times.items()}
        return found
    finally:
        for side in sides.values():
            side.end()


# -- what follows from the times ---------------------------------------------------------------------------------------


def epochs(times: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Seconds of an average step of each method, from those of its kinds of steps."""
    for name in ("reference", "plain", "dsn", "self_distillation"):
        if name in times:
            yield name, times[name]
    for lookahead in ("shared", "own"):
        if f"metadistiller, meta, {lookahead}" in times:
            meta = times[f"metadistiller, meta, {lookahead}"]
            yield f"metadistiller, {lookahead}", ((M - 1) * times["metadistiller, student"] + meta) / M


def ratios(times: dict[str, float]) -> dict[str, float]:
    average = dict(epochs(times))
    reference, plain = average.pop("reference"), average["plain"]
    found = {"plain_vs_reference": plain / reference}
    for name, seconds in average.items():
        if name != "plain":
            key = name.replace(", shared", "").replace(", ", "_")
            found |= {f"{key}_vs_reference": seconds / reference, f"{key}_vs_plain": seconds / plain}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="WRN-16-1 and ResNet18, fewer forms and steps: under a minute"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--serve", choices=("reference", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve({"reference": Reference, "ours": Ours}[given.serve]())
        return
    networks = ["wrn16_1", "resnet18"] if given.quick else given.networks.split(",")
    short = ("plain", "metadistiller, student", "metadistiller, meta, shared")
    forms = [form for form in FORMS if not given.quick or form in short]
    times = measure(networks, forms, rounds=1 if given.quick else given.rounds, quick=given.quick)
    found = {network: ratios(each) for network, each in times.items()}
    for network, each in found.items():
        say(f"{network}: " + ", ".join(f"{key} {value:.2f}" for key, value in each.items()))
    if given.json:
        config = {network: written_out(resolve(config_of(network, "metadistiller", {}))) for network in networks}
        print_json(
            rounded(
                {
                    "networks": found,
                    "milliseconds": {n: {form: 1000 * s for form, s in each.items()} for n, each in times.items()},
                    "formats": {n: [c.precision, c.memory_format] for n, c in config.items()},
                    "generator_width": {n: WIDTH.get(n, "mirror") for n in networks},
                    "batch": BATCH,
                    "meta_every_epochs": M,
                    "environment": environment(Machine.of(next(iter(config.values()))).device),
                }
            )
        )


if __name__ == "__main__":
    main()
