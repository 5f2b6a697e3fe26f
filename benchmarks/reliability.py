"""How often what is promised under faults, damage and malice holds: a function a figure, each counts passed and tried.

    python benchmarks/reliability.py                     all figures in full, as a table
    python benchmarks/reliability.py --quick --json      smaller, under a minute; one JSON object on the last line
    python benchmarks/reliability.py --only save_faults

Everything runs on a processor with networks of a few channels. What did not pass is told on standard error.

    damaged_checkpoints     a checkpoint damaged at random is refused by name before a tensor of it is read, and the one
                            before it is taken (_damage.py)
    save_faults             each call of a save fails, once and from then on, or the process is killed there: the
                            checkpoint before is whole, and the next save works (_faults.py)
    hostile_files           pickles, settings, archives, images and names that mean harm: no program of theirs has run,
                            nothing was written elsewhere, and what must be refused is, by name (_hostile.py, _bombs.py,
                            _names.py)
"""

import argparse
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import _bombs
import _damage
import _faults
import _hostile
import _names
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


# A figure is a line here: its name and its function, which gets an empty folder.
FIGURES: dict[str, Callable[..., Counts]] = {
    "damaged_checkpoints": damaged_checkpoints,
    "save_faults": save_faults,
    "hostile_files": hostile_files,
}


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


def measured(names: Iterable[str], *, quick: bool) -> dict[str, Counts]:
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="reliability-", dir=_memory()) as place:
            found[name] = FIGURES[name](Path(place), quick=quick)
        say(f"{name}: {found[name][0]} of {found[name][1]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller counts: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    parser.add_argument("--only", choices=FIGURES, help="one figure")
    given = parser.parse_args()
    torch.set_num_threads(1)
    say(str(environment(torch.device("cpu"))))
    # Of images that are refused; a warning on the way to that is no news.
    warnings.simplefilter("ignore")
    found = measured([given.only] if given.only else FIGURES, quick=given.quick)
    if given.json:
        print_json({name: {"passed": passed, "tried": tried} for name, (passed, tried) in found.items()})
    else:
        print("\n".join(f"{name:22}{passed:>8} of {tried:>6}" for name, (passed, tried) in found.items()))


if __name__ == "__main__":
    main()
