"""How often what is promised under faults, damage and malice holds: a function a figure, each counts passed and tried.

    python benchmarks/reliability.py                     all figures in full, as a table
    python benchmarks/reliability.py --quick --json      smaller, some 80 s; one JSON object on the last line
    python benchmarks/reliability.py --only save_faults

Everything runs on a processor with networks of a few channels. What did not pass is told on standard error.

    damaged_checkpoints     a checkpoint damaged at random is refused by name before a tensor of it is read, and the one
                            before it is taken (_damage.py)
    save_faults             each call of a save fails, once and from then on, or the process is killed there: the
                            checkpoint before is whole, and the next save works (_faults.py)
    kills                   SIGKILL, half of them inside a save: the same command again ends with the bits of an
                            undisturbed run (interruptions.py)
    signals                 SIGTERM, SIGINT, SIGUSR1 anywhere: saved, a step lost at most, ended within 20 s, and the
                            same bits in the end
    meta_gradient_on_ranks  eq. 8 on 2 and 4 ranks, by double backward in one process: 1e-12 (_rank_laws.py)
    steps_on_ranks          50 steps on 2 ranks, for every kind of method, against one process: 1e-10
    change_of_shape         stopped with some ranks and workers, taken up with others: the same global batches in their
                            order, none missing or twice (_rank_runs.py)
    killed_ranks            a rank killed at some step: the job ends within 60 s and names it, and the same command, or
                            torchrun's restart, ends with the same bits
    mutants                 a look-ahead of each rank's own, a generator cut off, running statistics that leak, an order
                            that depends on workers: each is seen by the law that it breaks (_mutants.py)
    hostile_files           pickles, settings, archives, images and names that mean harm: no program of theirs has run,
                            nothing was written elsewhere, and what must be refused is, by name (_hostile.py, _bombs.py,
                            _names.py)
"""

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import _bombs
import _damage
import _faults
import _hostile
import _mutants
import _names
import _rank_laws
import _rank_runs
import interruptions
import torch
from _measure import environment, print_json, say

Counts = tuple[int, int]  # passed, tried


def damaged_checkpoints(place: Path, *, quick: bool) -> Counts:
    pair = _damage.Pair(place / "checkpoints")
    return _counted(pair.objection(number) for number in range(500 if quick else 10_000))


def save_faults(place: Path, *, quick: bool) -> Counts:
    folder = place / "checkpoints"
    points = [(scene, point) for scene in _faults.SCENES for point in _faults.points(folder, scene)]
    return _counted(_faults.objection(folder, scene, *point) for scene, point in points)


def hostile_files(place: Path, *, quick: bool) -> Counts:
    # By four, and not by a number of which the entrances are a multiple, each of them is tried.
    attempts = [*_hostile.attempts(), *_bombs.attempts()][:: 4 if quick else 1]
    files = _counted(attempt.objection(_new(place / str(number))) for number, attempt in enumerate(attempts))
    names = _counted(found and f"{law}: {found}" for law, found in _names.all_objections(_new(place / "names")))
    return files[0] + names[0], files[1] + names[1]


def kills(place: Path, *, quick: bool) -> Counts:
    return interruptions.kills(10 if quick else 100, place)


def signals(place: Path, *, quick: bool) -> Counts:
    return interruptions.signals(6 if quick else 50, place)


def meta_gradient_on_ranks(place: Path, *, quick: bool) -> Counts:
    sizes = [(9, 7)] if quick else [(8, 12), (9, 7), (5, 8)]
    ways = [(2, size, *how) for size in sizes for how in product((False, True), repeat=2)]
    ways += [] if quick else [(4, *way[1:]) for way in ways]
    return _counted(_rank_laws.meta_objection(*way) for way in ways)


def steps_on_ranks(place: Path, *, quick: bool) -> Counts:
    return _counted(map(_rank_laws.steps_objection, ["metadistiller"] if quick else _rank_laws.METHODS))


def change_of_shape(place: Path, *, quick: bool) -> Counts:
    pairs = list(product(_rank_runs.SHAPES, repeat=2))
    return _counted(_rank_runs.change_of_shape(place, random.Random(1).sample(pairs, 4) if quick else pairs))


def killed_ranks(place: Path, *, quick: bool) -> Counts:
    return _counted(_rank_runs.killed_ranks(place, 2 if quick else 20))


def mutants(place: Path, *, quick: bool) -> Counts:
    return _counted(mutant(_new(place / name)) for name, mutant in _mutants.MUTANTS.items())


# A figure is a line here: its name and its function, which gets an empty folder.
FIGURES: dict[str, Callable[..., Counts]] = {
    "damaged_checkpoints": damaged_checkpoints,
    "save_faults": save_faults,
    "hostile_files": hostile_files,
    "kills": kills,
    "signals": signals,
    "meta_gradient_on_ranks": meta_gradient_on_ranks,
    "steps_on_ranks": steps_on_ranks,
    "change_of_shape": change_of_shape,
    "killed_ranks": killed_ranks,
    "mutants": mutants,
}

# Begun first, so that all processes end at about the same time.
SLOWEST = (
    *("killed_ranks", "kills", "change_of_shape", "steps_on_ranks", "signals", "mutants", "meta_gradient_on_ranks"),
    *("hostile_files", "save_faults", "damaged_checkpoints"),
)


def _counted(objections: Iterable[str | None]) -> Counts:
    passed = tried = 0
    for objection in objections:
        tried += 1
        passed += objection is None
        if objection is not None:
            say(f"  {objection}")
    return passed, tried


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _memory() -> str | None:
    """A folder in memory where there is one with room: a hundred thousand small files are slow on a busy disk."""
    folder = "/dev/shm"
    return folder if os.path.isdir(folder) and shutil.disk_usage(folder).free > 2**30 else None


def one(name: str, quick: bool) -> Counts:
    """A figure, in a process of its own."""
    torch.set_num_threads(1)
    # Of images that are refused; a warning on the way to that is no news.
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reliability-", dir=_memory()) as place:
        found = FIGURES[name](Path(place), quick=quick)
    say(f"{name}: {found[0]} of {found[1]}, {time.perf_counter() - began:.0f} s")
    return found


def measured(names: Sequence[str], *, quick: bool) -> dict[str, Counts]:
    """Two figures at a time: much of it is waiting for processes to start."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch.distributed", "metadistiller.assemble"])
    with ProcessPoolExecutor(2, mp_context=processes) as pool:
        found = {name: pool.submit(one, name, quick) for name in sorted(names, key=SLOWEST.index)}
        return {name: found[name].result() for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller counts: some 80 s on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    parser.add_argument("--only", choices=FIGURES, help="one figure")
    given = parser.parse_args()
    say(str(environment(torch.device("cpu"))))
    found = measured([given.only] if given.only else list(FIGURES), quick=given.quick)
    if given.json:
        print_json({name: {"passed": passed, "tried": tried} for name, (passed, tried) in found.items()})
    else:
        print("\n".join(f"{name:22}{passed:>8} of {tried:>6}" for name, (passed, tried) in found.items()))


if __name__ == "__main__":
    main()
