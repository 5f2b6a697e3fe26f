"""Eq. 8 on several ranks is eq. 8 of the whole batches, with statistics of each rank's own or synchronised."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from metadistiller.config import Choice
from metadistiller.data import Slice, rank_slice
from metadistiller.meta import meta_loss, meta_loss_from, shared_look_ahead
from metadistiller.nn import LabelGenerator, MultiExit, Synchronised, build_network, stage_shapes
from metadistiller.ranks import Ranks

from .world import run

CLASSES, SIDE, LR, ALPHA, TAU = 5, 16, 0.3, 0.4, 1.5
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
            loss = eq3(exits, train[1], [target.detach() for target in targets])
            (loss * train.share).backward()
            ranks.sum_([p.grad for p in student.parameters() if p.grad is not None])
            ahead = shared_look_ahead(student, train[0], targets, inner_lr=LR, share=train.share)
            found = meta_loss_from(ahead, student, held_out, **how)
        else:
            found = meta_loss(student, generator, train, held_out, **how)
        gradients = torch.autograd.grad(found.surrogate * found.share, list(generator.parameters()))
    ranks.sum_(gradients)
    return [*gradients, found.heldout_loss[None]]


def eq3(exits: list[Tensor], labels: Tensor, targets: list[Tensor]) -> Tensor:
    loss = F.cross_entropy(exits[-1], labels)
    for logits, target in zip(exits[:-1], targets, strict=True):
        log_t, log_s = F.log_softmax(target / TAU, dim=1), F.log_softmax(logits / TAU, dim=1)
        soft = (log_t.exp() * (log_t - log_s)).sum(1).mean()
        loss = loss + ALPHA * F.cross_entropy(logits, labels) + (1 - ALPHA) * TAU**2 * soft
    return loss


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
        loss = loss + part.share * eq3(exits, part[1], generator([feature.detach() for feature in features]))
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


# Even slices, uneven ones, and batches too small for all ranks.
@pytest.mark.parametrize("sizes", [(8, 12), (9, 7), (5, 8)])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("statistics", ["local", "synchronised"])
@pytest.mark.parametrize("world", [2, 4])
def test_several_ranks_have_the_meta_gradient_of_one(
    sizes: tuple[int, int], shared: bool, statistics: str, world: int
) -> None:
    synchronised = statistics == "synchronised"
    wanted = by_double_backward("resnet10", sizes, 1 if synchronised else world, "final")
    found = run(gradient_on, world, "resnet10", sizes, synchronised, shared, "final")
    assert distance(found[0], wanted) <= 1e-12
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("statistics", ["local", "synchronised"])
def test_so_it_is_with_all_exits_held_out_and_another_network(statistics: str) -> None:
    synchronised = statistics == "synchronised"
    wanted = by_double_backward("mobilenet_v2", (8, 6), 1 if synchronised else 2, "all")
    found = run(gradient_on, 2, "mobilenet_v2", (8, 6), synchronised, False, "all")
    # 52 normalised layers over a few pixels: rounding alone is 2.7e-12 here.
    assert distance(found[0], wanted) <= 1e-11


class Deaf(Ranks):
    """A rank that keeps what it should tell the others."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.world = ranks.rank, ranks.world


def local_look_ahead(ranks: Ranks, name: str, sizes: tuple[int, int]) -> list[Tensor]:
    """The tempting shortcut: a look-ahead of each rank's own, and one sum in the end."""
    found = gradient_on(Deaf(ranks), name, sizes, False, False, "final")
    ranks.sum_(found)
    return found


def test_a_look_ahead_of_each_rank_s_own_is_something_else() -> None:
    wanted = by_double_backward("resnet10", (8, 12), 2, "final")
    found = run(local_look_ahead, 2, "resnet10", (8, 12))
    assert distance(found[0], wanted) > 0.01
