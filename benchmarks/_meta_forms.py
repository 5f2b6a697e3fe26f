"""The ways to the generator's gradient that benchmarks time and compare, and the scene that each is asked at."""

import abc
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from _equations import loss_of_exits
from torch import Tensor, nn
from torch.func import functional_call

from metadistiller.config import Choice, Config
from metadistiller.data import Batch, seeded
from metadistiller.engine.machine import Machine, resolve
from metadistiller.meta import meta_loss
from metadistiller.methods import Setting
from metadistiller.methods.metadistiller import MetaDistiller, Options, build
from metadistiller.nn import Backbone, LabelGenerator, MultiExit, build_network

ALPHA, TEMPERATURE, INNER_LR = 0.5, 1.0, 0.1
RATES = {"student": INNER_LR, "generator": 0.001}
CLASSES, SIDE = 100, 32


def network_of(model: Choice, classes: int = CLASSES) -> Backbone:
    """The same weights at each call."""
    with seeded(0, "backbone"):
        return build_network(model, classes)


def machine_of(model: Choice, precision: Literal["auto", "float32"] = "auto") -> Machine:
    """What a run of the network takes here."""
    method = Choice(name="metadistiller")
    return Machine.of(resolve(Config(data=Choice(name="cifar100"), model=model, method=method, precision=precision)))


@dataclass(frozen=True)
class Scene:
    """Student and generator on a machine, with one batch of X_train and one of X_test; the same numbers on each."""

    method: MetaDistiller
    machine: Machine
    train_batch: Batch
    heldout_batch: Batch

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        batch: int,
        machine: Machine,
        *,
        width: int | Literal["mirror"] = "mirror",
        dtype: torch.dtype = torch.float32,
    ) -> "Scene":
        """Args: backbone: not used elsewhere. batch: images of either. width: of the generator."""
        options = Options(alpha=ALPHA, temperature=TEMPERATURE, generator_width=width)
        method = build(options, Setting(backbone, (SIDE, SIDE), seed=0)).to(dtype).train()
        machine.place(method)
        with seeded(0, "batches"):
            images, labels = torch.randn(2, batch, 3, SIDE, SIDE), torch.randint(backbone.num_classes, (2, batch))
        train, heldout = (
            (machine.arrange(x.to(machine.device, dtype)), y.to(machine.device))
            for x, y in zip(images, labels, strict=True)
        )
        return cls(method, machine, train, heldout)

    @property
    def student(self) -> MultiExit:
        return self.method.boosting.student

    @property
    def generator(self) -> LabelGenerator:
        assert self.method.generator is not None
        return self.method.generator


def taken(module: nn.Module) -> list[Tensor]:
    """The gradients in .grad of a module's parameters, where they are then no more."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return gradients


# Ours


def student_step(s: Scene) -> list[Tensor]:
    """The student's forward and backward pass, as in an epoch without meta steps."""
    (student,) = s.method.objectives(1)
    with s.machine.autocast():
        losses = student.loss(s.train_batch, RATES)
    losses.total.backward(inputs=list(s.student.parameters()))
    taken(s.student)
    return []


def shared_step(s: Scene) -> list[Tensor]:
    """The student's pass and then the generator's, which shares its gradient, as in a meta epoch."""
    student, generator = s.method.objectives(0)
    with s.machine.autocast():
        losses = student.loss(s.train_batch, RATES)
    losses.total.backward(inputs=list(s.student.parameters()))
    with s.machine.autocast():
        losses = generator.loss(s.heldout_batch, RATES)
    losses.total.backward(inputs=list(s.generator.parameters()))
    taken(s.student)
    return taken(s.generator)


def own_step(s: Scene) -> list[Tensor]:
    """The generator's gradient with a look-ahead of its own."""
    with s.machine.autocast():
        found = meta_loss(
            s.student,
            s.generator,
            s.train_batch,
            s.heldout_batch,
            inner_lr=INNER_LR,
            alpha=ALPHA,
            temperature=TEMPERATURE,
        )
    found.surrogate.backward(inputs=list(s.generator.parameters()))
    return taken(s.generator)


# What ours is held against; nothing here comes from metadistiller.meta or metadistiller.losses.


def double_backward(s: Scene) -> list[Tensor]:
    student, generator = s.student, s.generator
    images, labels = s.train_batch
    features, exits = student(images)
    loss = loss_of_exits(
        exits, generator([feature.detach() for feature in features]), labels, alpha=ALPHA, temperature=TEMPERATURE
    )
    params = dict(student.named_parameters())
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    fast = {name: p - INNER_LR * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    images, labels = s.heldout_batch
    _, exits = functional_call(student, fast, (images,))
    return list(torch.autograd.grad(F.cross_entropy(exits[-1], labels), list(generator.parameters())))


def library() -> Any:
    """`higher`, so that it takes this package's networks.

    Raises: SystemExit where it is not installed.
    """
    try:
        import higher
    except ImportError:
        raise SystemExit("higher is not installed; it is in the extra test: pip install '.[test]'") from None
    base = higher.patch._MonkeyPatchBase
    if base.__bases__ == (abc.ABC, nn.Module):
        # For each module higher makes a class that inherits from the module's own and from this base, of ABC and Module
        # in this order. Python refuses that where the module's own class has them in the other, as Backbone has. The
        # order decides nothing else: neither class defines what the other does.
        left_out = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl")
        body = {name: value for name, value in vars(base).items() if name not in left_out}
        higher.patch._MonkeyPatchBase = abc.ABCMeta(base.__name__, (nn.Module, abc.ABC), body)
    return higher


class _Layers(nn.ModuleList):
    """A ModuleList whose slices are plain lists: for a slice torch's makes another of its class, and the classes that
    higher puts in place cannot be made so.
    """

    def __getitem__(self, index: Any) -> Any:
        return list(self._modules.values())[index]


def sliceable(module: nn.Module) -> None:
    """Let higher take networks that slice their lists of layers, as WideResNet does."""
    for part in module.modules():
        if type(part) is nn.ModuleList:
            part.__class__ = _Layers


def by_higher(s: Scene) -> list[Tensor]:
    student, generator = s.student, s.generator
    inner = torch.optim.SGD(student.parameters(), lr=INNER_LR)
    with library().innerloop_ctx(student, inner, copy_initial_weights=False, track_higher_grads=True) as (
        fast,
        diffopt,
    ):
        images, labels = s.train_batch
        features, exits = fast(images)
        loss = loss_of_exits(
            exits, generator([feature.detach() for feature in features]), labels, alpha=ALPHA, temperature=TEMPERATURE
        )
        diffopt.step(loss)
        images, labels = s.heldout_batch
        _, exits = fast(images)
        F.cross_entropy(exits[-1], labels).backward()
    taken(student)
    return taken(generator)
