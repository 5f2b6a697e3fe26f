"""Steps of training on several ranks are the steps of one process with the same batches, for every kind of method."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metadistiller.assemble import assemble
from metadistiller.building import load_data
from metadistiller.config import Augmentation, Choice, Config, Optim, Teacher
from metadistiller.data import Batch, Batches, Slice, rank_slice, seeded, share_of
from metadistiller.engine.evaluate import evaluate
from metadistiller.engine.step import Job, Stepper
from metadistiller.nn import build_network
from metadistiller.ranks import ALONE, Ranks

from .world import run

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
    "metadistiller": lambda: config("metadistiller", meta_every_epochs=2, generator_lr=0.01),
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


def state_after(ranks: Ranks, name: str, steps: int) -> dict[str, Tensor]:
    """Student, generator, momenta and averages, and the means of the last epoch."""
    here = job(name, ranks)
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


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_take_the_steps_of_one_process(name: str) -> None:
    (wanted,) = run(state_after, 1, name, STEPS)
    first, second = run(state_after, 2, name, STEPS)
    assert apart(first, wanted) <= 1e-10
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_with_statistics_of_their_own_ranks_still_agree_with_each_other_to_the_bit() -> None:
    first, second, third = run(local_state_after, 3, "metadistiller", 12)
    for other in (second, third):
        assert all(torch.equal(first[key], other[key]) for key in first)
    (alone,) = run(local_state_after, 1, "metadistiller", 12)
    assert apart(first, alone) > 1e-6


def local_state_after(ranks: Ranks, name: str, steps: int) -> dict[str, Tensor]:
    here = job(name, ranks, statistics="local")
    stepper = Stepper(here)
    stepper.begin_epoch(0)
    for step in range(steps):
        stepper.step(step % stepper.steps_per_epoch)
    return dict(here.method.state_dict())


# The batches


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [2, 3, 5, 8, 13, 60, 128])
def test_slices_are_the_whole_batch_once(count: int, world: int) -> None:
    taken, shares = [], []
    for rank in range(world):
        begin, end, share = rank_slice(count, rank, world)
        assert end - begin >= 2
        shares.append(share)
        taken += list(range(begin, end)) if share else []
    assert taken == list(range(count))
    assert sum(shares) == pytest.approx(1)


class Place(Ranks):
    """One of several ranks that are not there."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("augment", [{}, {"mixup": 0.3}, {"cutmix": 1.0}, {"policy": "trivialaugment"}], ids=str)
def test_slices_of_every_stream_are_its_batches(augment: dict[str, Any], world: int) -> None:
    chosen = replace(config("metadistiller", lookahead="own"), augment=Augmentation(**augment))
    dataset = load_data(chosen.data)
    whole = assemble(chosen, dataset)
    parts = [assemble(chosen, dataset, ranks=Place(rank, world)) for rank in range(world)]
    streams = [objective.stream for objective in whole.method.objectives(0)]
    for stream in streams:
        for step in range(whole.batches.steps_per_epoch):
            wanted = whole.batches.batch(stream, epoch=0, step=step)
            found = [part.batches.batch(stream, epoch=0, step=step) for part in parts]
            if torch.is_tensor(wanted[0]):
                wanted, found = (wanted,), [(each,) for each in found]
            for place, batch in enumerate(wanted):
                active = [each[place] for each in found if share_of(each[place])]
                for kind in (0, 1):
                    assert torch.equal(torch.cat([each[kind] for each in active]), batch[kind])


def test_counts_of_several_ranks_are_those_of_one() -> None:
    (wanted,) = run(counts, 1)
    for world in (2, 3):
        for found in run(counts, world):
            assert found[:-1] == wanted[:-1]
            assert found[-1] == pytest.approx(wanted[-1], rel=1e-6)


def counts(ranks: Ranks) -> list[Any]:
    here = job("metadistiller", ALONE)
    found = evaluate(
        here.method.float(), here.dataset, here.dataset.test, machine=here.machine, batch_size=100, ranks=ranks
    )
    return [found.count, found.top1, found.top5, found.confusion, found.loss]
