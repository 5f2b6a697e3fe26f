"""For a person watching: a live display on a terminal, plain lines elsewhere, and lines in the run's log always."""

import errno
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..records import RunFolder
from .checkpoint import Progress as Place
from .evaluate import Evaluation
from .step import Job
from .train import Watcher

SECONDS_BETWEEN_LINES = 5.0


def accuracies(row: Mapping[str, Any]) -> dict[str, float]:
    """The outputs' accuracies in a row of results.csv, shallow first."""
    names = [key for key in row if key.startswith("exit_") and key.count("_") == 1]
    return {name.replace("_", " "): row[name] for name in [*names, "final", "ensemble"] if name in row}


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Pace:
    """Time left, from the steps done since this process began."""

    def __init__(self, job: Job, place: Place) -> None:
        self.epochs, self.steps = job.config.epochs, job.batches.steps_per_epoch
        self._began = time.perf_counter()
        self._start = place.epoch * self.steps + place.step

    def left(self, epoch: int, step: int) -> str:
        done = epoch * self.steps + step - self._start
        rest = self.epochs * self.steps - self._start - done
        return clock((time.perf_counter() - self._began) / max(1, done) * rest)


def _headline(job: Job, place: Place) -> str:
    config = job.config
    kept = f" ({job.batches.kept_back:,} of them kept from training)" if job.batches.kept_back else ""
    verb = f"resuming in epoch {place.epoch}, step {place.step}," if place.epoch or place.step else "training"
    return (
        f"{verb} {config.model.name} with {config.method.name} on {config.data.name}: "
        f"{len(job.dataset.train):,} training{kept} and {len(job.dataset.test):,} test images, "
        f"{job.dataset.num_classes} classes, {config.epochs} epochs on {config.device}, {config.precision}"
    )


class Lines:
    """One plain line every few seconds and one an epoch.

    Args:
        stream: where they go; flushed after each.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pace: _Pace | None = None
        self._last = 0.0

    def begin(self, job: Job, folder: RunFolder, progress: Place) -> None:
        self._pace = _Pace(job, progress)
        self._last = time.perf_counter()
        self.note(_headline(job, progress))

    def step(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        assert self._pace is not None
        now = time.perf_counter()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items() if name in ("loss", "heldout_loss"))
        self.note(
            f"epoch {epoch + 1}/{self._pace.epochs}  step {step}/{self._pace.steps}  {losses}  "
            f"{images_per_second:,.0f} images/s  {self._pace.left(epoch, step)} left"
        )

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        assert self._pace is not None
        scores = "  ".join(f"{name} {percent:.2f}" for name, percent in accuracies(row).items())
        self.note(
            f"epoch {row['epoch'] + 1}/{self._pace.epochs} done  loss {row['loss']:.3f}  {scores}  "
            f"{images_per_second:,.0f} images/s  {self._pace.left(row['epoch'] + 1, 0)} left"
        )

    def note(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError as error:
            # A full disk is told of by whoever must write to it; a line about a run is no reason to end it.
            if error.errno != errno.ENOSPC:
                raise

    def end(self, result: Mapping[str, Any], evaluation: Evaluation) -> None:
        self.note(f"finished in {clock(result['seconds'])}")


class LiveDisplay(AbstractContextManager["LiveDisplay"]):
    """A display that redraws itself: epoch, step, speed, losses, accuracy of each exit, time left."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._pace: _Pace | None = None
        self._title = Text("preparing ...")
        self._means: Mapping[str, float] = {}
        self._scores: Mapping[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            expand=True,
        )
        self._epochs = self._bars.add_task("epoch", note="")
        self._steps = self._bars.add_task("step", note="")

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, job: Job, folder: RunFolder, progress: Place) -> None:
        self._pace = _Pace(job, progress)
        self._title = Text(f"{_headline(job, progress)}\n{folder}", style="bold")
        self._bars.update(self._epochs, total=self._pace.epochs, completed=progress.epoch)
        self._bars.update(self._steps, total=self._pace.steps, completed=progress.step)
        self._draw()

    def step(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        assert self._pace is not None
        self._means = means
        self._bars.update(self._epochs, completed=epoch, note=f"{self._pace.left(epoch, step)} left")
        self._bars.update(self._steps, completed=step, note=f"{images_per_second:,.0f} images/s")
        self._draw()

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        self._scores = accuracies(row) or self._scores
        self.step(row["epoch"] + 1, 0, self._means, images_per_second)

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def end(self, result: Mapping[str, Any], evaluation: Evaluation) -> None:
        self._draw()

    def _draw(self) -> None:
        losses = Table.grid(padding=(0, 2))
        for name, value in self._means.items():
            if name.endswith(("loss", "_hard", "_soft", "_entropy")):
                losses.add_row(name.replace("_", " "), f"{value:.4f}")
        scores = Table.grid(padding=(0, 2))
        for name, percent in self._scores.items():
            scores.add_row(name, f"{percent:.2f} %")
        both = Table.grid(padding=(0, 4))
        both.add_row(losses, scores)
        self._live.update(Group(self._title, self._bars, both))


class Everyone:
    """Several watchers as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def begin(self, job: Job, folder: RunFolder, progress: Place) -> None:
        for watcher in self._watchers:
            watcher.begin(job, folder, progress)

    def step(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        for watcher in self._watchers:
            watcher.step(epoch, step, means, images_per_second)

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        for watcher in self._watchers:
            watcher.epoch(row, images_per_second)

    def note(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.note(text)

    def end(self, result: Mapping[str, Any], evaluation: Evaluation) -> None:
        for watcher in self._watchers:
            watcher.end(result, evaluation)
