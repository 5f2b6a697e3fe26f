"""Runs that are killed, or asked to stop, wherever they are: do they end with the bits of an undisturbed run?

A library without a command line: `kills` and `signals` take how many trials and an empty folder. Each trial is a
process of its own, the command `metadistiller train`, forked from one that has imported torch and computed nothing; the
report at the end, which takes longer than these runs and from which nothing is resumed, is left out.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from PIL import Image

from metadistiller.engine.checkpoint import identity, list_checkpoints, load_checkpoint, newest_valid
from metadistiller.errors import CheckpointError
from metadistiller.records import RunFolder
from metadistiller.settings import load_config
from metadistiller.signals import ASKING

EPOCHS, STEPS, PICTURES = 3, 3, 12
PLACES = ("start-up", "student", "generator", "save", "evaluation", "examples", "end")
SECONDS_TO_EXIT = 20.0
PRODUCTS = (
    "results.csv",
    "evaluation.json",
    "soft_targets.json",
    "mistakes.json",
    "outcomes.safetensors",
    "model.safetensors",
)


def words_of(folder: Path) -> list[str]:
    """Three epochs of three steps on three classes of noise; the generator learns in the first and the last."""
    pictures = folder / "pictures"
    drawn = random.Random(0)
    for part, count in (("train", PICTURES), ("val", 6)):
        for name in "abc":
            (pictures / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.frombytes("RGB", (16, 16), drawn.randbytes(3 * 16 * 16))
                image.save(pictures / part / name / f"{number}.png")
    return [
        *("train", "folder", f"--data.root={pictures}", "--data.size=16", "--model=resnet10", "--model.width=2"),
        *(f"--epochs={EPOCHS}", f"--batch_size={3 * PICTURES // STEPS}", "--eval_batch_size=6", "--threads=1"),
        *("--method.meta_every_epochs=2", "--method.generator_lr=0.01", "--precision=float32"),
        *("--memory_format=contiguous", "--quiet", "--auto_resume"),
    ]


def digest(folder: Path) -> str:
    """SHA-256 of student, generator, optimizers and products."""
    checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    found = hashlib.sha256()
    for tensors in (checkpoint.method, checkpoint.optimizers):
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].numpy().tobytes())
    for product in PRODUCTS:
        found.update((folder / product).read_bytes())
    return found.hexdigest()


def kills(count: int, folder: Path) -> tuple[int, int]:
    """SIGKILL, in every other trial inside a save and else at any moment, twice; then the same command again.

    Returns: how many trials ended with the bits of an undisturbed run, and how many there were.
    """
    passed, drawn = 0, random.Random(count)
    words = [*words_of(folder), "--checkpoint_every_steps=1"]
    with Trials(folder) as trials:
        whole, seconds = _undisturbed(trials, words, folder)
        for trial in range(count):
            out = folder / f"killed-{trial}"
            if trial % 2 == 0:
                # A run passes more than a hundred of these.
                code = trials.run(words, out, [signal.SIGKILL], place=("save", drawn.randrange(100)))
            else:
                trials.run_until_signalled(words, out, signal.SIGKILL, drawn, seconds)
                code = trials.run_until_signalled(words, out, signal.SIGKILL, drawn, seconds)
            passed += code == -signal.SIGKILL and trials.run(words, out) == 0 and digest(out) == whole
    return passed, count


def signals(count: int, folder: Path) -> tuple[int, int]:
    """SIGTERM, SIGINT and SIGUSR1 in turn, at each of PLACES and at any moment in turn.

    A trial passes where the exit code is 3 within 20 s, the newest checkpoint is valid and lacks at most one step of
    those taken, and the same command again ends with the bits of an undisturbed run.

    Returns: how many trials passed, and how many there were.
    """
    passed, drawn = 0, random.Random(count)
    words = words_of(folder)
    with Trials(folder) as trials:
        whole, seconds = _undisturbed(trials, words, folder)
        for trial in range(count):
            out = folder / f"asked-{trial}"
            place = [*((name, drawn.randrange(2)) for name in PLACES), None][trial % (len(PLACES) + 1)]
            number = ASKING[trial % len(ASKING)]
            if place is None:
                code = trials.run_until_signalled(words, out, number, drawn, seconds)
            else:
                code = trials.run(words, out, [number], place=place)
            lost = trials.steps_taken(out) - steps_saved(out)
            passed += (
                code == 3
                and trials.seconds_to_exit <= SECONDS_TO_EXIT
                and lost <= 1
                and trials.run(words, out) == 0
                and digest(out) == whole
            )
    return passed, count


def _undisturbed(trials: "Trials", words: Sequence[str], folder: Path) -> tuple[str, float]:
    """Its digest, twice the same, and how long it takes once the forking process is there."""
    digests, began = [], 0.0
    for name in ("whole", "again"):
        began = time.monotonic()
        if trials.run(words, folder / name) != 0:
            raise RuntimeError(f"the undisturbed run failed: {trials.log.read_text()}")
        digests.append(digest(folder / name))
    if digests[0] != digests[1]:
        raise RuntimeError("two undisturbed runs differ")
    return digests[0], time.monotonic() - began


def steps_saved(out: Path) -> float:
    """In the newest checkpoint, which must be valid: minus infinity where it is not."""
    folder = RunFolder(out)
    if not folder.config.exists():
        return 0
    try:
        checkpoint, refused = newest_valid(folder.checkpoints, identity(load_config(folder)))
    except CheckpointError:
        return -float("inf")
    if refused:
        return -float("inf")
    return 0 if checkpoint is None else checkpoint.progress.epoch * STEPS + checkpoint.progress.step


class Trials:
    """A process that forks one `metadistiller` after the other.

    Attributes:
        log: what they printed.
        seconds_to_exit: from the last trial's first signal to its end.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        self.seconds_to_exit = 0.0
        self._folder = folder
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        self._server = subprocess.Popen(
            [sys.executable, "-c", "import interruptions; interruptions.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Trials":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(
        self,
        words: Sequence[str],
        out: Path,
        numbers: Sequence[int] = (),
        *,
        place: tuple[str, int] | None = None,
        delay: float = 0.0,
    ) -> int:
        """One trial to its end.

        Args:
            numbers: signals that it gets, one right after the other.
            place: one of PLACES, and how often it is passed before; the process signals itself there. None signals it
                from outside, `delay` seconds after it has begun.
        Returns: the exit code, or minus the signal that ended it.
        """
        moment = self._folder / "moment"
        moment.unlink(missing_ok=True)
        order = {
            "words": [*words, f"--out={out}"],
            "numbers": [int(number) for number in numbers],
            "place": place,
            "log": str(self.log),
            "steps": str(self._steps(out)),
            "moment": str(moment),
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        process = int(self._server.stdout.readline())
        if numbers and place is None:
            time.sleep(delay)
            moment.write_text(str(time.monotonic()))
            for number in numbers:
                # Ended, and nobody has looked yet: then it takes no signal any more, and its number is not another's.
                os.kill(process, number)
        # Until it is told, the server leaves what has ended where it is.
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        if moment.exists():
            self.seconds_to_exit = time.monotonic() - float(moment.read_text())
        return code

    def run_until_signalled(
        self, words: Sequence[str], out: Path, number: int, drawn: random.Random, seconds: float
    ) -> int:
        """One trial that gets a signal at a moment drawn from so many seconds; begun anew where it was over before."""
        while (code := self.run(words, out, [number], delay=drawn.uniform(0, seconds))) == 0:
            shutil.rmtree(out)
            self._steps(out).unlink()
            seconds *= 0.8
        return code

    def steps_taken(self, out: Path) -> int:
        steps = self._steps(out)
        return steps.stat().st_size if steps.exists() else 0

    def _steps(self, out: Path) -> Path:
        return out.with_name(f"{out.name}.steps")


# -- in the process that forks ----------------------------------------------------------------------------------------


def serve() -> None:
    """Read orders, fork, say which process it is, and how it ended after another line has come."""
    import metadistiller.assemble
    import metadistiller.cli  # noqa: F401  # both only so that what is forked has them

    while order := sys.stdin.readline():
        # Python needs a moment before a command can take signals; a trial begins after it, in _unblocking.
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        process = os.fork()
        if process == 0:
            _trial(json.loads(order))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        print(process, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _trial(order: Mapping[str, Any]) -> None:
    """The command, and the end of this process."""
    from metadistiller import cli

    code = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _unblocking()
        _counting_steps(Path(order["steps"]))
        if order["place"] is not None:
            _signalling(*order["place"], order["numbers"], Path(order["moment"]))
        with without_report():
            code = cli.main(order["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def without_report() -> Iterator[None]:
    """Drawing one takes longer than these runs, and nothing is resumed from it."""
    from metadistiller import assemble

    with mock.patch.object(assemble.report, "write", lambda folder: (Path(folder) / "report.html").touch()):
        yield


def _wrap(owner: Any, name: str, before: Callable[..., None], after: Callable[[], None] = lambda: None) -> None:
    whole = getattr(owner, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        before(*args, **options)
        result = whole(*args, **options)
        after()
        return result

    setattr(owner, name, wrapped)


def _unblocking() -> None:
    from metadistiller.signals import Signals

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)

    _wrap(Signals, "__enter__", lambda *args: None, unblock)


def _counting_steps(file: Path) -> None:
    """One byte for each step that was taken to its end, over all sittings that lost none."""
    from metadistiller.engine.step import Stepper

    def count() -> None:
        with file.open("ab") as steps:
            steps.write(b".")

    _wrap(Stepper, "step", lambda *args: None, count)


def _signalling(place: str, passes: int, numbers: Sequence[int], moment: Path) -> None:
    """Send this process signals at a place, after it was passed so many times."""
    from metadistiller import assemble
    from metadistiller.engine import answers, checkpoint, evaluate, products, train
    from metadistiller.engine.step import Stepper

    left = [passes]

    def here() -> None:
        left[0] -= 1
        if left[0] == -1:
            moment.write_text(str(time.monotonic()))
            for number in numbers:
                os.kill(os.getpid(), number)

    if place in ("student", "generator"):
        _wrap(Stepper, "_differentiate", lambda stepper, objective, *rest: here() if objective.of == place else None)
    elif place == "save":
        saving = [False]
        whole = train.save_checkpoint

        def save(*args: Any, **options: Any) -> Path:
            with _set(saving):
                return whole(*args, **options)

        train.save_checkpoint = save
        for owner, name in ((checkpoint, "_sha256"), (os, "fsync"), (shutil, "rmtree"), (Path, "rename")):
            _wrap(owner, name, lambda *args, **options: here() if saving[0] else None)
    else:
        owner, name = {
            "start-up": (assemble, "load_data"),
            "evaluation": (evaluate, "evaluation_images"),
            "examples": (answers, "evaluation_images"),
            "end": (products, "save_network"),
        }[place]
        if name != "evaluation_images":
            # These are passed once in a run.
            left[0] = 0
        _wrap(owner, name, lambda *args, **options: here())


@contextmanager
def _set(flag: list[bool]) -> Iterator[None]:
    flag[0] = True
    try:
        yield
    finally:
        flag[0] = False
