"""What several ranks compute, and what one process computes of the same batches: eq. 8, and steps of training.

Of a step: student, generator, momenta and running statistics. Of eq. 8: by double backward, which shares no code with
metadistiller.meta. Everything is float64.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from _equations import loss_of_exits
from _world import run
from torch import Tensor
from torch.func import functional_call

from metadistiller.assemble import assemble
from metadistiller.building import load_data
from metadistiller.config import Augmentation, Choice, Config, Optim, Teacher
from metadistiller.data import Batch, Batches, Slice, rank_slice, seeded
from metadistiller.engine.step import Job, Stepper
from metadistiller.meta import meta_loss, meta_loss_from, restraint, shared_look_ahead
from metadistiller.nn import LabelGenerator, MultiExit, Synchronised, build_network, stage_shapes
from metadistiller.ranks import Ranks

# -- eq. 8 ------------------------------------------------------------------------------------------------------------

CLASSES, LR, ALPHA, TAU = 5, 0.3, 0.4, 1.5
NETWORKS = {
    "resnet10": Choice(name="resnet10", options={"width": 4}),
    "mobilenet_v2": Choice(name="mobilenet_v2", options={"width": 0.1}),
}
Scene = tuple[MultiExit, LabelGenerator, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def scene(name: str, train: int, heldout: int) -> Scene:
    torch.manual_seed(5)
    backbone = build_network(NETWORKS[name], CLASSES)
    size = (2 * max(8, backbone.total_stride),) * 2
    student = MultiExit(backbone, size).double()
    generator = LabelGenerator(stage_shapes(backbone, size), CLASSES, exit_design=backbone.exit_design).double()
    batches = [
        (torch.randn(count, 3, *size, dtype=torch.float64), torch.arange(count) % CLASSES) for count in (train, heldout)
    ]
    return student, generator, batches[0], batches[1]


def sliced(batch: tuple[Tensor, Tensor], rank: int, world: int) -> Slice:
    begin, end, share = rank_slice(len(batch[1]), rank, world)
    return Slice((batch[0][begin:end], batch[1][begin:end]), share, len(batch[1]))


def gradient_on(
    ranks: Ranks, name: str, sizes: tuple[int, int], synchronised: bool, shared: bool, heldout: str
) -> list[Tensor]:
    """The meta-gradient as the engine makes it: surrogate times share, summed over ranks."""
    student, generator, *batches = scene(name, *sizes)
    train, held_out = (sliced(batch, ranks.rank, ranks.world) for batch in batches)
    how = {"inner_lr": LR, "alpha": ALPHA, "temperature": TAU, "heldout": heldout, "ranks": ranks}
    with Synchronised(ranks, counts=train.share > 0) if synchronised else nullcontext():
        if shared:
            features, exits = student(train[0])
            targets = generator([feature.detach() for feature in features])
            constants = [target.detach() for target in targets]
            loss = loss_of_exits(exits, constants, train[1], alpha=ALPHA, temperature=TAU)
            (loss * train.share).backward()
            ranks.sum_([p.grad for p in student.parameters() if p.grad is not None])
            ahead = shared_look_ahead(student, train, targets, inner_lr=LR)
            found = meta_loss_from(ahead, student, held_out, **how)
        else:
            found = meta_loss(student, generator, train, held_out, **how)
        gradients = torch.autograd.grad(found.surrogate * found.share, list(generator.parameters()))
    ranks.sum_(gradients)
    return [*gradients, found.heldout_loss[None]]


def restraint_on(ranks: Ranks, count: int) -> list[Tensor]:
    """Of drawn u_k and targets of `count` images, its value and the gradient of a common offset of the targets."""
    torch.manual_seed(5)
    drawn = torch.randn(3, count, CLASSES, dtype=torch.float64) * torch.arange(1.0, count + 1)[:, None]
    begin, end, share = rank_slice(count, ranks.rank, ranks.world)
    offset = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    u, targets, reference = drawn[:, begin:end]
    found = restraint([u], [targets + offset], reference, temperature=TAU, share=share, ranks=ranks) * share
    parts = [found.detach()[None], *torch.autograd.grad(found, offset)]
    ranks.sum_(parts)
    return parts


def by_double_backward(name: str, sizes: tuple[int, int], parts: int, heldout: str) -> list[Tensor]:
    """One process, double backward, the batches in `parts` that are normalised by themselves."""
    student, generator, *batches = scene(name, *sizes)
    train, held_out = ([sliced(batch, part, parts) for part in range(parts)] for batch in batches)
    params = dict(student.named_parameters())

    def answered(values: dict[str, Tensor], images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        buffers = {key: value.clone() for key, value in student.named_buffers()}
        return functional_call(student, (values, buffers), (images,))

    loss = torch.zeros((), dtype=torch.float64)
    for part in train:
        features, exits = answered(params, part[0])
        targets = generator([feature.detach() for feature in features])
        loss = loss + part.share * loss_of_exits(exits, targets, part[1], alpha=ALPHA, temperature=TAU)
    inner = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    fast = {key: value - LR * g for (key, value), g in zip(params.items(), inner, strict=True)}
    total = torch.zeros((), dtype=torch.float64)
    for part in held_out:
        exits = answered(fast, part[0])[1]
        wanted = exits if heldout == "all" else exits[-1:]
        total = total + part.share * sum(F.cross_entropy(logits, part[1]) for logits in wanted)
    return [*torch.autograd.grad(total, list(generator.parameters())), total.detach()[None]]


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    found_, wanted_ = (torch.cat([part.reshape(-1) for part in parts]) for parts in (found, wanted))
    return float((found_ - wanted_).norm() / wanted_.norm())


class Deaf(Ranks):
    """A rank that keeps what it should tell the others."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.world = ranks.rank, ranks.world


def local_look_ahead(ranks: Ranks, name: str, sizes: tuple[int, int]) -> list[Tensor]:
    """The tempting shortcut: a look-ahead of each rank's own, and one sum in the end."""
    found = gradient_on(Deaf(ranks), name, sizes, False, False, "final")
    ranks.sum_(found)
    return found


def meta_objection(world: int, sizes: tuple[int, int], synchronised: bool, shared: bool) -> str | None:
    """What is wrong with the meta-gradient on so many ranks; None where it is that of one process."""
    wanted = by_double_backward("resnet10", sizes, 1 if synchronised else world, "final")
    found = run(gradient_on, world, "resnet10", sizes, synchronised, shared, "final")
    where = f"{world} ranks, batches of {sizes}, {'synchronised' if synchronised else 'local'} statistics, "
    where += f"{'shared' if shared else 'own'} look-ahead"
    if (error := distance(found[0], wanted)) > 1e-12:
        return f"{where}: {error:.2g} off"
    same = all(torch.equal(here, first) for other in found[1:] for here, first in zip(other, found[0], strict=True))
    return None if same else f"{where}: ranks differ"


# -- steps of training ------------------------------------------------------------------------------------------------

STEPS = 50


def config(method: str, **options: object) -> Config:
    return Config(
        data=Choice(name="digits", options={"train_per_class": 6}),
        model=Choice(name="resnet10", options={"width": 4}),
        method=Choice(name=method, options=dict(options)),
        teacher=Teacher(name="resnet10", options={"width": 6}) if method in ("kd", "fitnet", "dml") else None,
        # Gentle: under batch normalisation training is chaotic, and at lr 0.05 rounding grows tenfold in five steps.
        optim=Optim(lr=0.0001, clip_norm=5.0, adam_eps=1e-3),
        epochs=20,
        batch_size=16,
        precision="float32",
        memory_format="contiguous",
        batch_statistics="synchronised",
        threads=1,
    )


METHODS: dict[str, Callable[[], Config]] = {
    "metadistiller": lambda: config("metadistiller", meta_every_epochs=5, generator_lr=0.01),
    "metadistiller-own": lambda: config("metadistiller", meta_every_epochs=2, generator_lr=0.01, lookahead="own"),
    "self_distillation": lambda: config("self_distillation"),
    "dml": lambda: config("dml"),
    "fitnet": lambda: config("fitnet", hint_epochs=4),
    "kd": lambda: config("kd"),
    "mixup": lambda: replace(config("metadistiller", generator_lr=0.01), augment=Augmentation(mixup=0.4)),
}


class Doubles:
    """Batches in float64."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.steps_per_epoch = batches.steps_per_epoch

    def batch(self, stream: Any, *, epoch: int, step: int) -> Any:
        found = self._batches.batch(stream, epoch=epoch, step=step)
        return _double(found) if torch.is_tensor(found[0]) else tuple(map(_double, found))


def _double(batch: Batch) -> Batch:
    images, labels = batch
    shown = images.double(), labels.double() if labels.is_floating_point() else labels
    return Slice(shown, batch.share, batch.total) if isinstance(batch, Slice) else shown


def job(name: str, ranks: Ranks, *, statistics: str = "synchronised") -> Job:
    chosen = replace(METHODS[name](), batch_statistics=statistics)
    dataset = load_data(chosen.data)
    teacher = None
    if chosen.teacher is not None and chosen.method.name != "dml":
        with seeded(3, "teacher"):
            teacher = build_network(chosen.teacher, dataset.num_classes).double()
    found = assemble(chosen, dataset, teacher, ranks=ranks)
    found.method.double()
    return replace(found, batches=Doubles(found.batches))


def state_after(ranks: Ranks, name: str, steps: int, statistics: str = "synchronised") -> dict[str, Tensor]:
    """Student, generator, momenta and averages, and the means of the last epoch."""
    here = job(name, ranks, statistics=statistics)
    stepper = Stepper(here)
    for step in range(steps):
        epoch, place = divmod(step, stepper.steps_per_epoch)
        if place == 0:
            stepper.begin_epoch(epoch)
        stepper.step(place)
    means = {f"mean/{key}": torch.tensor(value) for key, value in stepper.means.means("here").items()}
    momenta = {f"{of}/{key}": value for of, o in stepper.optimizers.items() for key, value in o.state().items()}
    return {**here.method.state_dict(), **momenta, **means}


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of weights, running statistics and means, in units of a tensor's largest entry or of 1."""
    assert found.keys() == wanted.keys()
    pairs = [(found[key].double(), wanted[key].double()) for key in wanted if not key.endswith("momentum_buffer")]
    return max(float((f - w).abs().max() / w.abs().max().clamp_min(1)) for f, w in pairs if w.numel())


def steps_objection(name: str) -> str | None:
    """What is wrong after 50 steps of a method on two ranks; None where they are the steps of one process."""
    (wanted,) = run(state_after, 1, name, STEPS)
    first, second = run(state_after, 2, name, STEPS)
    if (error := apart(first, wanted)) > 1e-10:
        return f"{name}: {error:.2g} off"
    return None if all(torch.equal(first[key], second[key]) for key in first) else f"{name}: ranks differ"
