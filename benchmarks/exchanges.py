"""What several ranks tell each other in one step, counted: the engine's own steps, with ranks that write down what is
exchanged instead of exchanging it.

Usage:
    python benchmarks/exchanges.py

Prints one JSON object. Bytes and messages depend on shapes alone, so a small batch of small black images does, as long
as the stages' sides stand to each other as at full size: the exits' kernels follow from them. The numbers are the same
on every machine; those of operations may differ between versions of torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from _measure import Counted, print_json, say
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metadistiller.assemble import assemble
from metadistiller.config import Choice, Config
from metadistiller.data import Augment, Dataset, ImageSet
from metadistiller.engine.step import Stepper
from metadistiller.inspection import inspect
from metadistiller.nn import build_network
from metadistiller.ranks import Ranks

Lookahead = Literal["shared", "own"]
Width = int | Literal["mirror"]


@dataclass(frozen=True)
class Network:
    """One that is counted.

    Attributes:
        title: of its row.
        side: pixels, for MACs.
        counted_side: of the images that a step is taken with.
    """

    title: str
    model: Choice
    width: Width
    side: int
    counted_side: int
    classes: int


_IMAGENET = {"stem": "imagenet"}
NETWORKS = (
    Network("wrn16_1, CIFAR-100", Choice(name="wrn16_1"), "mirror", 32, 32, 100),
    Network("resnet18, CIFAR-100", Choice(name="resnet18"), "mirror", 32, 32, 100),
    Network("resnet18, ImageNet", Choice(name="resnet18", options=_IMAGENET), "mirror", 224, 64, 1000),
    Network("resnet50, ImageNet, generator 128", Choice(name="resnet50", options=_IMAGENET), 128, 224, 64, 1000),
    Network("resnet50, ImageNet, mirror", Choice(name="resnet50", options=_IMAGENET), "mirror", 224, 64, 1000),
)


@dataclass(frozen=True)
class Message:
    """One exchange.

    Attributes:
        kind: sum (all ranks get the sum), gather (all ranks get everybody's).
        size: bytes of one rank's part.
        times: how many there are of it.
    """

    kind: Literal["sum", "gather"]
    size: int
    times: int = 1


@dataclass
class Listening(Ranks):
    """The first of two ranks, whose other one is not there: nothing is exchanged, all is written down.

    Attributes:
        calls: in order, the messages of each exchange, one for each type of number; and whether a layer of
            synchronised batch normalisation made it.
    """

    rank = 0
    world = 2
    calls: list[tuple[bool, tuple[Message, ...]]] = field(default_factory=list)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        sizes: dict[torch.dtype, int] = {}
        for tensor in tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel() * tensor.element_size()
        layer = len(tensors) == 1 and tensors[0].ndim == 2 and len(tensors[0]) == 2
        self.calls.append((layer, tuple(Message("sum", size) for size in sizes.values())))

    def gathered(self, tensor: Tensor) -> Tensor:
        self.calls.append((True, (Message("gather", tensor.numel() * tensor.element_size()),)))
        return tensor.expand(self.world, *tensor.shape)


@dataclass(frozen=True)
class Part:
    """One of a step's exchanges, and what the layers of one objective exchange before it.

    Attributes:
        name: student, look-ahead, held-out or generator.
        messages: sums of gradients and the like.
    """

    name: str
    messages: tuple[Message, ...]

    @property
    def size(self) -> int:
        return sum(message.size for message in self.messages)


@dataclass(frozen=True)
class Step:
    """What a step of one kind exchanges, and how many operations of torch it is made of.

    Attributes:
        student, meta: of the student's objective and of the generator's.
        student_layers, meta_layers: what layers add with batch_statistics=synchronised.
        operations, meta_operations: of a student's step, and what the generator's objective adds; of ATen, views
            included, counted in float32.
    """

    student: tuple[Part, ...]
    meta: tuple[Part, ...]
    student_layers: tuple[Message, ...]
    meta_layers: tuple[Message, ...]
    operations: int
    meta_operations: int


def step_of(model: Choice, options: dict[str, Any] | None, *, side: int, classes: int) -> Step:
    """Args:
    options: of MetaDistiller; None for plain training.
    side: pixels of the images that are counted with.
    """
    meta_turn = options is not None
    local, student_operations, operations = _steps(model, options, side, classes, "local")
    layered, _, _ = _steps(model, options, side, classes, "synchronised")
    names = ["student"]
    if options is not None:
        names += [*(["look-ahead"] if options["lookahead"] == "own" else []), "held-out", "generator"]
    assert len(local) == len(names), "an exchange that this plan does not know"
    parts = tuple(Part(name, messages) for name, (_, messages) in zip(names, local, strict=True))
    # The student's layers come before its gradient is summed.
    first = [layer for layer, _ in layered].index(False)
    return Step(
        parts[:1],
        parts[1:],
        _together(layered[:first]),
        _together(layered[first:]),
        student_operations,
        operations - student_operations if meta_turn else 0,
    )


def _together(calls: Sequence[tuple[bool, tuple[Message, ...]]]) -> tuple[Message, ...]:
    """Those of layers, each size once."""
    counts = Counter(message for layer, messages in calls if layer for message in messages)
    return tuple(replace(message, times=times) for message, times in sorted(counts.items(), key=str))


def _steps(
    model: Choice, options: dict[str, Any] | None, side: int, classes: int, statistics: Literal["local", "synchronised"]
) -> tuple[list[tuple[bool, tuple[Message, ...]]], int, int]:
    """The exchanges of a step with an update of the generator; operations of one without and of one with it."""
    ranks = Listening()
    config = Config(
        data=Choice(name="imagenet"),
        model=model,
        method=Choice(name="plain") if options is None else Choice(name="metadistiller", options=options),
        batch_size=8,
        device="cpu",
        precision="float32",
        memory_format="contiguous",
        batch_statistics=statistics,
        threads=torch.get_num_threads(),
    )
    stepper = Stepper(assemble(config, _black(side, classes), ranks=ranks))
    found = []
    # The generator learns in epoch 0 and not in epoch 1. The first step finds out which derivative the network allows.
    for epoch, step in ((0, 0), (1, 0), (0, 1)):
        stepper.begin_epoch(epoch)
        ranks.calls.clear()
        counted = Counted(lambda step=step: stepper.step(step))
        counted()
        found.append(counted.operations)
    return list(ranks.calls), found[1], found[2]


def _black(side: int, classes: int) -> Dataset:
    """An image of each class."""
    whole = ImageSet(torch.zeros(classes, 3, side, side, dtype=torch.uint8), torch.arange(classes))
    return Dataset(
        name="black",
        train=whole,
        test=whole,
        classes=tuple(map(str, range(classes))),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=Augment(),
        source="nowhere",
    )


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image: F, F' (without the last stage), H, G, as docs/notes/speed.md has them."""

    network: int
    early: int
    exits: int
    generator: int

    @classmethod
    def of(cls, model: Choice, *, side: int, classes: int, width: Width) -> "Macs":
        found = inspect(model, num_classes=classes, size=(side, side), generator_width=width)
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone = build_network(model, classes).eval()
            backbone.stages(torch.empty(1, 3, side, side), upto=backbone.num_stages - 1)
        return cls(found["macs"], counter.get_total_flops() // 2, found["exits"]["macs"], found["generator"]["macs"])

    @property
    def student_step(self) -> float:
        """In plain steps: forward and backward through network and exits, forward through the generator."""
        return (3 * (self.network + self.exits) + self.generator) / (3 * self.network)

    def meta_step(self, lookahead: Lookahead) -> float:
        """In plain steps, what an update of the generator adds: the held-out gradient without the last stage's
        weights, tangents up to the last stage, a backward pass of the generator; a look-ahead of its own.
        """
        held_out = 2 * self.network + self.early
        added = held_out + 2 * (self.early + self.exits) + 2 * self.generator
        own = 3 * (self.network + self.exits) + self.generator if lookahead == "own" else 0
        return (added + own) / (3 * self.network)


def count(network: Network) -> dict[str, Any]:
    """Of one network: MACs for an image, and the steps of plain training and of both look-aheads."""
    say(network.title)
    forms: Mapping[str, dict[str, Any] | None] = {
        "plain": None,
        "shared": {"lookahead": "shared", "generator_width": network.width},
        "own": {"lookahead": "own", "generator_width": network.width},
    }
    return {
        "macs": asdict(Macs.of(network.model, side=network.side, classes=network.classes, width=network.width)),
        "steps": {
            name: asdict(step_of(network.model, options, side=network.counted_side, classes=network.classes))
            for name, options in forms.items()
        },
    }


def step_from(kept: Mapping[str, Any]) -> Step:
    """What `count` has of a step, read again."""

    def messages(rows: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        return tuple(Message(**row) for row in rows)

    def parts(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
        return tuple(Part(row["name"], messages(row["messages"])) for row in rows)

    return Step(
        parts(kept["student"]),
        parts(kept["meta"]),
        messages(kept["student_layers"]),
        messages(kept["meta_layers"]),
        kept["operations"],
        kept["meta_operations"],
    )


if __name__ == "__main__":
    print_json({"torch": torch.__version__, "networks": {network.title: count(network) for network in NETWORKS}})
