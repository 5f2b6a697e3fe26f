"""Steps of training on several ranks are the steps of one process with the same batches, for every kind of method."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from _rank_laws import METHODS, apart, config, job, state_after, steps_objection
from _world import run

from metadistiller.assemble import assemble
from metadistiller.building import load_data
from metadistiller.config import Augmentation
from metadistiller.data import rank_slice, share_of
from metadistiller.engine.evaluate import evaluate
from metadistiller.ranks import ALONE, Ranks


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_take_the_steps_of_one_process(name: str) -> None:
    assert steps_objection(name) is None


def test_with_statistics_of_their_own_ranks_still_agree_with_each_other_to_the_bit() -> None:
    first, second, third = run(state_after, 3, "metadistiller", 12, "local")
    for other in (second, third):
        assert all(torch.equal(first[key], other[key]) for key in first)
    (alone,) = run(state_after, 1, "metadistiller", 12, "local")
    assert apart(first, alone) > 1e-6


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
