"""Every run behind Tables 1 to 4 of the paper: DATA_NETWORK_METHOD, one recipe each, with the numbers to compare with.

Schedule and rates are those of sec. 4.1: 200 epochs, learning rate 0.1, times 0.1 after 80 and 140 epochs. The paper is
silent on all else; see docs/method.md for CIFAR-100. On ImageNet batch 256 and weight decay 1e-4 are those of
torchvision's reference training, and the schedule is still the paper's, as its sec. 4.3 names no other.

The generator has the shapes of the network's own maps ("mirror", the paper's most likely design) where that costs about
half of the network. In bottleneck networks it would cost 1.7 to 3.2 times the network, and they get 128 channels in
every map; ShuffleNetV2, where it would cost 2.4 to 3.4 times, gets 64. Its learning rate is the default of
`metadistiller`, which departs from the paper's (docs/notes/generator-lr.md).

What training costs is counted in multiply-accumulates (MACs) for an image; a backward pass counts as two forward
passes, a forward-mode pass as three. B is the network, B' its stages 1..K-1, E the exits, G the generator, T a teacher,
P a peer, M = 5:

    plain                           3 B
    dsn, self_distillation          3 (B + E)
    metadistiller                   3 (B + E) + G  +  1/M [ 3 (B + E) + G + 3 B + 3 (B' + E) + 2 G ]
    kd, fitnet, attention_transfer  3 B + T        and 3 T for the teacher's own training
    dml                             4 B + 3 P      the student answers once more after its step

Regressors, attention maps and losses are left out. Docstrings give these in units of 3 B.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import paper
from ..config import Choice, Config, Optim, Teacher

META_EVERY_EPOCHS = 5  # M, sec. 3.5

_TWO_STAGE = ("kd", "fitnet", "attention_transfer")
_DATA = {"cifar100": "CIFAR-100", "imagenet": "ImageNet"}


@dataclass(frozen=True)
class Cost:
    """Of training, in units of plain training of the same network, by MACs.

    Attributes:
        own: of the run.
        with_teacher: of the run and of its teacher's own training; None without a teacher.
    """

    own: float
    with_teacher: float | None = None


def training_cost(network: str, method: str) -> Cost:
    """By the table at the head of this file."""
    found = paper.NETWORKS[network]
    plain, boosted, generator = 3 * found.macs, 3 * (found.macs + found.exits_macs), found.generator_macs
    teacher = paper.NETWORKS[paper.TEACHER].macs
    match method:
        case "plain":
            return Cost(1.0)
        case "dsn" | "self_distillation":
            return Cost(boosted / plain)
        case "metadistiller":
            meta = boosted + plain + 3 * (found.early_macs + found.exits_macs) + 3 * generator
            return Cost((boosted + generator + meta / META_EVERY_EPOCHS) / plain)
        case "kd" | "fitnet" | "attention_transfer":
            return Cost((plain + teacher) / plain, (plain + 4 * teacher) / plain)
        case "dml":
            return Cost((4 * found.macs + 3 * teacher) / plain)
    raise AssertionError(method)


def _config(network: str, method: str) -> Config:
    found = paper.NETWORKS[network]
    options: dict[str, Any] = {}
    if method == "metadistiller" and found.generator_width != "mirror":
        options["generator_width"] = found.generator_width
    imagenet = found.data == "imagenet"
    return Config(
        data=Choice(name=found.data),
        model=Choice(name=network),
        method=Choice(name=method, options=options),
        teacher=Teacher(name=paper.TEACHER) if method in (*_TWO_STAGE, "dml") else None,
        optim=Optim(lr=0.1, weight_decay=1e-4 if imagenet else 5e-4, milestones=(0.4, 0.7), gamma=0.1),
        epochs=paper.EPOCHS,
        batch_size=256 if imagenet else 128,
    )


def _numbers(network: str, method: str) -> str:
    """The paper's numbers for a run, and in which tables they stand."""
    tables: list[str] = []
    values: dict[str, float] = {}
    row = network
    for name, table in paper.TABLES.items():
        if network in (*table.rows, *table.candidates) and method in table.methods:
            row = table.candidates.get(network, network)
            cells = paper.cells(name, network, method)
            tables += [name.removeprefix("table")] if cells else []
            values |= {cell.output: cell.value for cell in cells}
    if not values:
        return "The paper has no number"
    where = f"Table{'s' if len(tables) > 1 else ''} {', '.join(tables)}"
    numbers = ", ".join(f"{output} {value:.2f}" for output, value in values.items())
    return f"{where}: {numbers}" if row == network else f"May be {where}'s {row}: {numbers}"


def _docstring(name: str, network: str, method: str) -> str:
    found, cost = paper.NETWORKS[network], training_cost(network, method)
    role = ", the teacher of Table 3" if (network, method) == (paper.TEACHER, "plain") else ""
    lines = [
        f"{network} on {_DATA[found.data]}, {method}{role}. {_numbers(network, method)}.",
        "",
        f"Command: metadistiller train {name} --data.root FOLDER",
    ]
    if method in _TWO_STAGE:
        trained = paper.run_name(paper.TEACHER, "plain")
        lines.append(f"Teacher: {paper.TEACHER}, trained first, or --teacher RUN with a finished run of {trained}.")
    if method == "dml":
        lines.append(f"Peer: {paper.TEACHER}, which learns along from the beginning.")
    if method == "metadistiller":
        width = found.generator_width
        mirror = "" if width == "mirror" else f" (mirror: {_millions(found.mirror_macs)})"
        lines.append(f"Generator: width {width}, {_millions(found.generator_macs)}{mirror}.")
    inference = f"Cost: {_millions(found.macs)} an image at inference; training {cost.own:.2f} times the plain one"
    if cost.with_teacher is not None:
        inference += f", {cost.with_teacher:.2f} with the teacher's own"
    return "\n".join([*lines, f"{inference}, by MACs."])


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.1f} million MACs"


def _recipe(network: str, method: str) -> Callable[[], Config]:
    def make() -> Config:
        return _config(network, method)

    make.__name__ = make.__qualname__ = paper.run_name(network, method)
    make.__doc__ = _docstring(make.__name__, network, method)
    return make


def _runs() -> Iterator[tuple[str, str]]:
    """Network and method of every place in the tables; most stand in several."""
    for table in paper.TABLES.values():
        for network in (*table.rows, *table.candidates):
            for method in table.methods:
                yield network, method
    yield paper.TEACHER, "plain"


NAMES = {paper.run_name(network, method): _recipe(network, method) for network, method in dict.fromkeys(_runs())}
