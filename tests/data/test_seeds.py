"""Seeds and generators: one for each purpose, and whose state is nobody else's."""

import pytest
import torch

from metadistiller.data import seeded
from metadistiller.data._order import derived_seed, generator


def test_purposes_have_seeds_of_their_own() -> None:
    seeds = {
        derived_seed(seed, purpose, epoch)
        for seed in range(20)
        for purpose in ("train", "halves", "augment", "backbone")
        for epoch in range(20)
    }
    assert len(seeds) == 20 * 4 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_does_not_depend_on_the_interpreter() -> None:
    # SHA-256 of "0/train/0", its first eight bytes halved: a resumed run must find the same order tomorrow.
    assert derived_seed(0, "train", 0) == 0x58FA7E8757E422B4 >> 1


def test_generators_are_fresh() -> None:
    first, again, other = generator(3, "x", 1), generator(3, "x", 1), generator(3, "x", 2)
    draw = torch.rand(4, generator=first)
    assert torch.equal(torch.rand(4, generator=again), draw)
    assert not torch.equal(torch.rand(4, generator=other), draw)
    assert not torch.equal(torch.rand(4, generator=first), draw)


def test_seeded_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(11)
    torch.rand(3)
    before = torch.get_rng_state()
    with seeded(0, "a"):
        inside = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with seeded(0, "a"):
        assert torch.equal(torch.rand(5), inside)
    with seeded(0, "b"):
        assert not torch.equal(torch.rand(5), inside)
    with seeded(1, "a"):
        assert not torch.equal(torch.rand(5), inside)


def test_seeded_gives_the_generator_back_after_an_error() -> None:
    def draw_and_fail() -> None:
        with seeded(0, "a"):
            torch.rand(2)
            raise ZeroDivisionError("a defect")

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="a defect"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)
