"""Bugs planted on purpose: each must break the law that is there against it, which must hold without it.

A library without a command line: MUTANTS has a function for each, from an empty folder to what is wrong, or None where
the bug is seen.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from _rank_laws import by_double_backward, distance, gradient_on, local_look_ahead, scene
from _rank_runs import Change
from _world import run
from torch.func import functional_call

from metadistiller import meta
from metadistiller.data import Batches
from metadistiller.meta import _bound, meta_loss

NETWORK, SIZES = "resnet10", (8, 12)
Law = Callable[[], str | None]


def _seen(law: Law, bug: AbstractContextManager[Any]) -> str | None:
    if (said := law()) is not None:
        return f"the law does not hold without the bug: {said}"
    with bug:
        return None if law() is not None else "the law holds with the bug"


def local_look_ahead_on_ranks(place: Path) -> str | None:
    """Each rank looks ahead along its own gradient, and gradients are summed once, in the end."""
    wanted = by_double_backward(NETWORK, SIZES, 2, "final")
    function = gradient_on

    def law() -> str | None:
        given = (False, False, "final") if function is gradient_on else ()
        error = distance(run(function, 2, NETWORK, SIZES, *given)[0], wanted)
        return None if error <= 1e-12 else f"{error:.2g} off"

    @contextmanager
    def bug() -> Iterator[None]:
        nonlocal function
        function = local_look_ahead
        yield

    return _seen(law, bug())


def detached_generator(place: Path) -> str | None:
    """The generator's targets are cut off from it: what is left is a gradient of zeros."""
    wanted = by_double_backward(NETWORK, SIZES, 1, "final")

    def law() -> str | None:
        error = distance(run(gradient_on, 1, NETWORK, SIZES, False, False, "final")[0], wanted)
        return None if error <= 1e-12 else f"{error:.2g} off"

    agreement = meta._agreement

    def cut(u: Any, targets: Any) -> torch.Tensor:
        # With the parameters still in the graph, or it could not be missed.
        return agreement(u, [t.detach() + 0 * t for t in targets])

    return _seen(law, mock.patch.object(meta, "_agreement", cut))


def leaking_statistics(place: Path) -> str | None:
    """Passes of the meta step write the running statistics of the network that ships."""

    def law() -> str | None:
        student, generator, *batches = scene(NETWORK, *SIZES)
        before = {name: value.clone() for name, value in student.named_buffers()}
        meta_loss(student, generator, *batches, inner_lr=0.1, alpha=0.5, temperature=1.0)
        moved = [name for name, value in student.named_buffers() if not torch.equal(value, before[name])]
        return f"{moved[0]} has moved" if moved else None

    def without_clones(module: Any, function: Any, params: Any, images: Any) -> Any:
        state = {f"module.{name}": value for name, value in params.items()}
        return functional_call(_bound._Bound(module, function), state, (images,))

    @contextmanager
    def bug() -> Iterator[None]:
        places = [import_module(f"metadistiller.meta.{name}") for name in ("look_ahead", "derivative")]
        with mock.patch.object(places[0], "call", without_clones), mock.patch.object(places[1], "call", without_clones):
            yield

    return _seen(law, bug())


def order_by_workers(place: Path) -> str | None:
    """Which images a batch has depends on how many threads decode them."""
    change = Change(place)
    trials = iter(range(1, 9))
    parts = Batches._parts

    def law() -> str | None:
        return change.objection((1, 1), (1, 4), next(trials))

    def rolled(batches: Batches, stream: Any, epoch: int, step: int) -> Any:
        workers = batches._images._crops.images.workers or 0
        return [(index.roll(workers - 1), name) for index, name in parts(batches, stream, epoch, step)]

    return _seen(law, mock.patch.object(Batches, "_parts", rolled))


MUTANTS: dict[str, Callable[[Path], str | None]] = {
    function.__name__: function
    for function in (local_look_ahead_on_ranks, detached_generator, leaking_statistics, order_by_workers)
}
