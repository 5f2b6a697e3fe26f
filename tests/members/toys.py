"""Methods on networks small enough for a second, with whatever second network they learn with."""

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from metadistiller.config import Choice, Optim
from metadistiller.data import Disjoint, Halves, seeded
from metadistiller.engine.optim import PlayerOptimizer
from metadistiller.lookup import find
from metadistiller.methods import Losses, Method, Objective, Setting
from metadistiller.nn import Backbone, build_network

PACKAGE = "metadistiller.methods"
CLASSES, SIZE = 5, (16, 16)
EPOCHS = 10
RATES = {"student": 0.1, "generator": 0.001, "peer": 0.1}
TINY = Choice(name="resnet10", options={"width": 4})
# Wider than the student: whatever mixes the two up does not fit.
WIDER = Choice(name="resnet10", options={"width": 8})

Batch = tuple[torch.Tensor, torch.Tensor]


def network(choice: Choice = TINY, classes: int = CLASSES, *, seed: int = 0) -> Backbone:
    with seeded(seed, "toy"):
        return build_network(choice, classes)


@lru_cache
def _teacher() -> Backbone:
    backbone = network(WIDER, seed=1).train()
    with torch.no_grad():
        for step in range(20):
            backbone(batch(50 + step)[0])
    return backbone


def teacher() -> Backbone:
    """With running statistics that are not the initial ones, as any trained network has; a new copy each time."""
    return copy.deepcopy(_teacher())


def setting(backbone: Backbone | None = None, **others: Any) -> Setting:
    """With a teacher and a peer, unless `others` says something else."""
    defaults: dict[str, Any] = {"size": SIZE, "seed": 3, "epochs": EPOCHS}
    if "teacher" not in others:
        defaults["teacher"] = teacher()
    if "peer" not in others:
        defaults["peer"] = network(WIDER, seed=2)
    return Setting(**{"backbone": network() if backbone is None else backbone, **defaults, **others})


def make(name: str, options: Mapping[str, Any] | None = None, within: Setting | None = None) -> Method:
    member = find(PACKAGE, "method", name)
    built: Method = member.build(member.configure(options or {}), within or setting())
    return built


def batch(seed: int = 0, count: int = 8, *, size: tuple[int, int] = SIZE) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=drawn)
    return images, torch.randint(CLASSES, (count,), generator=drawn)


def batch_for(objective: Objective, *, size: tuple[int, int] = SIZE) -> Any:
    """The same batch of a stream each time."""
    first, other = batch(1, size=size), batch(2, size=size)
    match objective.stream:
        case Halves():
            return first, other
        case Disjoint():
            return other
        case _:
            return first


def parameters(method: Method, player: str) -> list[torch.nn.Parameter]:
    return list(method.players()[player].module.parameters())


def turns(method: Method, epoch: int) -> Iterator[tuple[Objective, Losses]]:
    """The losses of a step in which nobody moves; the gradient of a player that waits is there for those after it."""
    for objective in method.objectives(epoch):
        losses = objective.loss(batch_for(objective), RATES)
        yield objective, losses
        params = parameters(method, objective.of)
        if objective.waits and all(p.grad is None for p in params):
            losses.total.backward(inputs=params)


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module: torch.nn.Module, before: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters and buffers that differ from a snapshot, by any bit."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


class Steps:
    """The engine's core on fixed batches: every objective of an epoch, in order, with the engine's own optimizers."""

    def __init__(self, method: Method, *, size: tuple[int, int] = SIZE) -> None:
        self.method = method.train()
        self._size = size
        # At 0.05 mutual learning on one batch has not settled within twenty steps.
        self.optimizers = {name: PlayerOptimizer(player, Optim(lr=0.02)) for name, player in method.players().items()}

    def differentiate(self, objective: Objective) -> dict[str, float]:
        """The gradient of one objective; the parts that it recorded."""
        rates = {name: optimizer.lr for name, optimizer in self.optimizers.items()}
        losses = objective.loss(batch_for(objective, size=self._size), rates)
        self.optimizers[objective.of].differentiate(losses.total)
        return {name: part.item() for name, part in losses.parts.items()}

    def move(self, player: str) -> None:
        self.optimizers[player].move(factor=1.0)

    def step(self, epoch: int) -> dict[str, float]:
        """One step of an epoch."""
        parts: dict[str, float] = {}
        objectives = self.method.objectives(epoch)
        for objective in objectives:
            parts |= self.differentiate(objective)
            if not objective.waits:
                self.move(objective.of)
        for objective in objectives:
            if objective.waits:
                self.move(objective.of)
        return parts
