"""Eq. 8 on several ranks is eq. 8 of the whole batches, with statistics of each rank's own or synchronised."""

import pytest
from _rank_laws import (
    by_double_backward,
    distance,
    gradient_on,
    local_look_ahead,
    meta_objection,
    restraint_on,
)
from _world import run


# Even slices, uneven ones, and batches too small for all ranks.
@pytest.mark.parametrize("sizes", [(8, 12), (9, 7), (5, 8)])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("statistics", ["local", "synchronised"])
@pytest.mark.parametrize("world", [2, 4])
def test_several_ranks_have_the_meta_gradient_of_one(
    sizes: tuple[int, int], shared: bool, statistics: str, world: int
) -> None:
    assert meta_objection(world, sizes, statistics == "synchronised", shared) is None


@pytest.mark.parametrize("statistics", ["local", "synchronised"])
def test_so_it_is_with_all_exits_held_out_and_another_network(statistics: str) -> None:
    synchronised = statistics == "synchronised"
    wanted = by_double_backward("mobilenet_v2", (8, 6), 1 if synchronised else 2, "all")
    found = run(gradient_on, 2, "mobilenet_v2", (8, 6), synchronised, False, "all")
    # 52 normalised layers over a few pixels: rounding alone is 2.7e-12 here.
    assert distance(found[0], wanted) <= 1e-11


@pytest.mark.parametrize("count", [8, 5, 1])
def test_what_restrains_targets_has_the_deviation_of_the_whole_batch(count: int) -> None:
    (wanted,) = run(restraint_on, 1, count)
    for found in run(restraint_on, 2, count):
        assert distance(found, wanted) <= 1e-12


def test_a_look_ahead_of_each_rank_s_own_is_something_else() -> None:
    wanted = by_double_backward("resnet10", (8, 12), 2, "final")
    found = run(local_look_ahead, 2, "resnet10", (8, 12))
    assert distance(found[0], wanted) > 0.01
