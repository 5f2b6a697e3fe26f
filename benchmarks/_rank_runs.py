"""Runs on several ranks: stopped and taken up by others, one of them killed, one of them asked to stop.

A library without a command line. Runs of torchrun are the command as a user gives it.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from typing import Any
from unittest import mock

import interruptions
from _world import run

import metadistiller
from metadistiller import cli
from metadistiller.config import Choice, Config, Optim
from metadistiller.data import Batches
from metadistiller.engine.step import Stepper
from metadistiller.errors import Paused
from metadistiller.ranks import Ranks

RANKS, WORKERS = (1, 2, 4), (0, 1, 4)  # 0 is one thread a processor core
SHAPES = tuple(product(RANKS, WORKERS))
SECONDS_TO_END = 60.0

Log = list[list[Any]]


# -- another number of ranks and workers ------------------------------------------------------------------------------


def config(place: Path, workers: int, source: str = "imagenet") -> Config:
    """Two epochs of five steps on 36 images, the last step of four; the generator learns from halves in both."""
    options = {"root": str(place), "size": 16, "resize": 16, "workers": workers or None}
    return Config(
        data=Choice(name=source, options=options),
        model=Choice(name="resnet10", options={"width": 2}),
        method=Choice(name="metadistiller", options={"meta_every_epochs": 1, "lookahead": "own"}),
        optim=Optim(lr=0.01),
        epochs=2,
        batch_size=8,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )


def logged(ranks: Ranks, place: Path, out: Path, workers: int, steps: int, source: str = "imagenet") -> Log:
    """Train until so many steps are taken, or to the end; what this rank took of each batch."""
    log: Log = []
    divided = Batches._divided

    def note(batches: Batches, index: Any, stream: Any, name: str, epoch: int, step: int) -> Any:
        own, share = batches._own(index, stream)
        log.append([name, epoch, step, own.tolist() if share else []])
        return divided(batches, index, stream, name, epoch, step)

    taken = 0

    def enough() -> bool:
        nonlocal taken
        taken += 1
        return taken >= steps

    noting = mock.patch.object(Batches, "_divided", note)
    with noting, interruptions.without_report(), contextlib.suppress(Paused):
        metadistiller.train(config(place, workers, source), out, auto_resume=True, quiet=True, stop=enough)
    return log


def whole(logs: Sequence[Log]) -> Log:
    """Global batches from what the ranks took of them."""
    return [[*here[0][:3], [image for part in here for image in part[3]]] for here in zip(*logs, strict=True)]


class Change:
    """Stopped with some ranks and workers, taken up with others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        interruptions.words_of(folder)
        self._pictures = folder / "pictures"
        self._wanted = whole(run(logged, 1, self._pictures, folder / "whole", 1, 99))

    def objection(self, before: tuple[int, int], after: tuple[int, int], steps: int) -> str | None:
        """What is wrong; None where all batches are those of one process, in their order."""
        out = self._folder / f"{before}-{after}-{steps}"
        found = []
        for (world, workers), limit in ((before, steps), (after, 99)):
            found += whole(run(logged, world, self._pictures, out, workers, limit))
        if found == self._wanted:
            return None
        for place, (here, wanted) in enumerate(zip(found, self._wanted, strict=False)):
            if here != wanted:
                return f"{before} then {after}: batch {place} is {here}, not {wanted}"
        return f"{before} then {after}: {len(found)} batches, not {len(self._wanted)}"


# -- a rank that dies, a rank that is asked to stop -------------------------------------------------------------------


@contextlib.contextmanager
def _before_step(place: int, do: Callable[[], None]) -> Iterator[None]:
    """Within the block, `do` before step `place` of those that this process takes, from 0."""
    step, taken = Stepper.step, count()

    def watched(stepper: Stepper, number: int) -> None:
        if next(taken) == place:
            do()
        step(stepper, number)

    with mock.patch.object(Stepper, "step", watched):
        yield


def dying(place: int, rank: int, once: str) -> int:
    """`metadistiller` with the words after these; the rank kills itself before step `place` where the file `once` is
    not there yet.
    """

    def die() -> None:
        if int(os.environ["RANK"]) == rank and not os.path.exists(once):
            open(once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    with _before_step(place, die), interruptions.without_report():
        return cli.main(sys.argv[4:])


def torchrun(words: Sequence[str], *, ranks: int, restarts: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    paths = [str(Path(metadistiller.__file__).parents[1]), str(Path(__file__).parent)]
    environment: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )


class Killed:
    """Runs of which a rank is killed before some step."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks = folder / str(ranks), ranks
        self._folder.mkdir(parents=True)
        self._words = [*interruptions.words_of(self._folder), "--checkpoint_every_steps=1"]
        if self._undisturbed("whole") != [0] * ranks:
            raise RuntimeError("the undisturbed run failed")
        self._wanted = interruptions.digest(self._folder / "whole")

    def _undisturbed(self, name: str) -> list[int]:
        """Exit codes of all ranks; without torchrun, which takes three times as long to start them."""
        return run(commanded, self._ranks, [*self._words, f"--out={self._folder / name}"])

    def objection(self, place: int, rank: int, *, restarts: int) -> str | None:
        """What is wrong; None where the job ends in time, names the rank, and restarts to the same bits."""
        name = f"{place}-{rank}-{restarts}"
        out = self._folder / name
        driver = [str(Path(__file__)), str(place), str(rank), str(self._folder / f"{name}.once")]
        began = time.monotonic()
        done = torchrun([*driver, *self._words, f"--out={out}"], ranks=self._ranks, restarts=restarts)
        took = time.monotonic() - began
        where = f"rank {rank} of {self._ranks} killed before step {place}"
        if restarts == 0:
            if done.returncode == 0:
                return f"{where}: the job ended with 0"
            if took > SECONDS_TO_END:
                return f"{where}: the job ended after {took:.0f} s"
            if not re.search(rf"rank\s*:\s*{rank}\b.*?SIGKILL|SIGKILL.*?rank\s*:\s*{rank}\b", done.stderr, re.S):
                return f"{where}: the report does not name it: {done.stderr[-500:]}"
            # The same command again, as --max-restarts gives it.
            if self._undisturbed(name) != [0] * self._ranks:
                return f"{where}: it does not go on"
        elif done.returncode != 0:
            return f"{where}: it does not go on: {done.stderr[-500:]}"
        if interruptions.digest(out) != self._wanted:
            return f"{where}: other bits"
        return None


def commanded(ranks: Ranks, words: list[str]) -> int:
    """Exit code of the command, which says nothing and draws no report."""
    with contextlib.redirect_stdout(io.StringIO()), interruptions.without_report():
        return cli.main(words)


def asked_on_one(ranks: Ranks, words: list[str], place: int, number: int) -> int:
    """Exit code of the command where the last rank alone gets a signal before step `place`."""

    def ask() -> None:
        if ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), number)

    with _before_step(place, ask):
        return commanded(ranks, words)


def change_of_shape(folder: Path, pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> list[str | None]:
    change = Change(folder)
    return [change.objection(before, after, 1 + place % 9) for place, (before, after) in enumerate(pairs)]


def killed_ranks(folder: Path, trials: int) -> list[str | None]:
    """Half of them on two ranks, half on four; every second one restarted by torchrun."""
    found = []
    for ranks in (2, 4)[: 1 if trials < 4 else 2]:
        killed = Killed(folder, ranks)
        for trial in range(trials if trials < 4 else trials // 2):
            place, rank = (1 + 4 * trial) % 9, trial % ranks
            found.append(killed.objection(place, rank, restarts=trial % 2))
    return found


if __name__ == "__main__":
    raise SystemExit(dying(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
