"""The loop: every step of every epoch, and what comes between them: looking, evaluating, saving, stopping."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn, Protocol

from torch import Tensor

from ..budget import no_limit
from ..errors import CheckpointError, Paused
from ..ranks import ALONE, Ranks
from ..records import RunFolder, write_json
from ..timing import OTHER, Stopwatch, keeping, timed
from .checkpoint import Checkpoint, Progress, identity, load_weights, newest_valid, save_checkpoint
from .evaluate import Evaluation, evaluate
from .products import write_products
from .profile import stopwatch_of
from .same_images import check_same_images
from .start import load_start
from .step import Job, Stepper
from .stopping import Stopped

SECONDS_BETWEEN_LOOKS = 0.5
# Of an environment, what a sum's last bits depend on.
OF_THE_BITS = ("package", "torch", "device", "threads", "precision", "memory_format", "ranks")


class Watcher(Protocol):
    """Somebody who watches a run; nothing that it does can change a bit of it."""

    def begin(self, job: Job, folder: RunFolder, progress: Progress) -> None: ...
    def step(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None: ...
    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self, result: Mapping[str, Any], evaluation: Evaluation) -> None: ...


def train(
    job: Job,
    folder: RunFolder,
    *,
    watcher: Watcher,
    command: str,
    changed: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = no_limit,
    interrupted: Callable[[], bool] = no_limit,
    profile: bool = False,
) -> dict[str, Any]:
    """Train from wherever the folder's checkpoints are to the end; returns what result.json holds.

    Args:
        command: for the record.
        changed: by dotted name what was asked for that is not the default.
        stop: asked between two steps whether to save and stop; a sitting takes a step at least, and ends with an
            evaluation that has begun: what has little time, again and again, still comes to the end.
        interrupted: the same, for who cannot wait so long: asked before the first step and between batches of an
            evaluation too.
        profile: whether to measure where the time goes; changes no bit of what is trained.
    Raises: TrainingError where a loss is not finite; CheckpointError where the folder belongs to another run; DataError
        where it was begun on other images; Paused after saving, where `stop` or `interrupted` says so.
    """
    stopwatch = stopwatch_of(job.machine) if profile else None
    with keeping(stopwatch), timed(OTHER):
        return _train(_Run(job, folder, watcher, stop, interrupted, stopwatch), command, changed or {})


def _train(run: "_Run", command: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    job, folder = run.job, run.folder
    images = check_same_images(job.dataset, folder, job.ranks)
    progress = run.restore()
    begun = bool(progress.epoch or progress.step)
    environment = {**job.machine.describe(), "ranks": job.ranks.world}
    if begun and job.ranks.first:
        run.announce(environment)
    run.append_event(
        "resume" if begun else "start",
        environment=environment,
        command=command,
        changed=dict(changed),
        images=images,
        epoch=progress.epoch,
        step=progress.step,
        seconds=run.seconds,
    )
    run.watcher.begin(job, folder, progress)
    evaluation = None
    for epoch in range(progress.epoch, job.config.epochs):
        # Also here, where all is saved: a run that has no time left begins no epoch.
        if run.asked_to_stop(begun=epoch > progress.epoch):
            run.pause(epoch, progress.step if epoch == progress.epoch else 0)
        run.train_epoch(epoch, progress if epoch == progress.epoch else Progress(epoch=epoch))
        evaluation = run.evaluate_epoch(epoch)
        run.close_epoch(epoch, evaluation)
    return run.finish(evaluation)


class _Run:
    """One run under way: the players' optimizers, the epoch's means, the clock.

    Of several ranks the first alone reads and writes the folder, and tells the others what they need of it.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        watcher: Watcher,
        stop: Callable[[], bool],
        interrupted: Callable[[], bool],
        stopwatch: Stopwatch | None,
    ) -> None:
        self.job = job
        self.config = job.config
        self.folder = folder
        self.watcher = watcher
        self.ranks = job.ranks
        self._stop, self._interrupted = stop, interrupted
        self.stopwatch = stopwatch
        self.stepper = Stepper(job)
        self.steps = self.stepper.steps_per_epoch
        self.epoch_seconds = 0.0
        self._unwritten: list[dict[str, Any]] = []  # rows that are not in results.csv yet
        # Whether the newest checkpoint is of the place that the run was in when it last saved.
        self.saved = True
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Spent on this run, over all resumes."""
        return time.perf_counter() - self._began

    def asked_to_stop(self, *, begun: bool = True) -> bool:
        """Whether one of the ranks is to stop, so that all of them do, at the same place.

        Args:
            begun: whether this sitting has taken a step; before, only who cannot wait is asked.
        """
        return self.ranks.any(self._interrupted() or (begun and self._stop()))

    def interrupted(self) -> bool:
        """As asked_to_stop, by who cannot wait alone."""
        return self.ranks.any(self._interrupted())

    def announce(self, environment: Mapping[str, Any]) -> None:
        """Say what the bits depend on and is not as it was when this run trained last."""
        last = [event.get("environment", {}) for event in self.folder.read_events() if "environment" in event][-1:]
        changed = [
            f"{key} was {earlier[key]!r} and is {environment[key]!r}"
            for earlier in last
            for key in OF_THE_BITS
            if key in earlier and earlier[key] != environment[key]
        ]
        if changed:
            self.watcher.note(f"goes on, with other bits than it would have had: {'; '.join(changed)}")

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int, progress: Progress) -> None:
        """Steps progress.step .. end of `epoch`."""
        stepper = self.stepper
        stepper.begin_epoch(epoch, progress.means)
        began = looked = time.perf_counter()
        for step in range(progress.step, self.steps):
            stepper.step(step)
            now = time.perf_counter()
            if now - looked >= SECONDS_BETWEEN_LOOKS:
                looked = now
                means = stepper.means.means(self._where(epoch, step))
                self.watcher.step(epoch, step + 1, means, stepper.images_seen / (now - began))
            if step + 1 == self.steps:
                break
            every = self.config.checkpoint_every_steps
            here = every is not None and (step + 1) % every == 0 and self._save_within(epoch, step + 1)
            if self.asked_to_stop():
                if not here:
                    self._save_within(epoch, step + 1)
                self.pause(epoch, step + 1)
        # Raises where a step since the last look went wrong, before the test set is asked or anything is saved.
        stepper.means.totals(self._where(epoch, self.steps - 1))
        self.epoch_seconds = time.perf_counter() - began

    def pause(self, epoch: int, step: int) -> NoReturn:
        """After saving. Raises: Paused; CheckpointError where the place could not be saved."""
        if self.saved:
            self._record_profile()
        self._record("pause", epoch=epoch, step=step, seconds=self.seconds)
        place = f"after epoch {epoch} of {self.config.epochs}" + (f" and {step} steps" if step else "")
        place += ", before their evaluation" if step == self.steps else ""
        if not self.saved:
            raise CheckpointError(
                f"stopped in time, {place}, but the checkpoint could not be written; make room on the disk, then "
                f"'metadistiller resume {self.folder}' goes on from the checkpoint before it"
            )
        raise Paused(
            f"stopped in time, {place}; all is saved, and 'metadistiller resume {self.folder}' goes on from there"
        )

    def _record_profile(self) -> None:
        """At the end of a process; one that is killed leaves none, and its last steps are done again."""
        if self.stopwatch is not None:
            self.append_event("profile", parts=self.stopwatch.read(), seconds=self.seconds)

    def _where(self, epoch: int, step: int) -> str:
        return f"epoch {epoch}, by step {step + 1} of {self.steps}"

    # -- after an epoch ----------------------------------------------------------------------------------------------

    def evaluate_epoch(self, epoch: int) -> Evaluation | None:
        last = epoch + 1 == self.config.epochs
        if not last and (epoch + 1) % self.config.evaluate_every != 0:
            return None
        try:
            return self._evaluate()
        except Stopped:
            # The steps are not taken again; the evaluation is, from its beginning.
            self._save_within(epoch, self.steps)
            self.pause(epoch, self.steps)

    def close_epoch(self, epoch: int, evaluation: Evaluation | None) -> None:
        """The event, the row, the checkpoint; in this order, so that a checkpoint never knows more than the table."""
        factor = self.stepper.factor(0)
        rates = {name: optimizer.lr * factor for name, optimizer in self.stepper.optimizers.items()}
        row: dict[str, Any] = {"epoch": epoch, "lr": rates.pop("student")}
        row |= {f"{name}_lr": rate for name, rate in rates.items()}
        row |= self.stepper.means.means(self._where(epoch, self.steps - 1))
        if evaluation is not None:
            scores = zip(evaluation.names, evaluation.percent, strict=True)
            row |= {name.replace(" ", "_"): percent for name, percent in scores}
            row["test_loss"] = evaluation.loss
        self._unwritten.append(row)
        # None was seen where only the evaluation was left to do.
        rate = self.stepper.images_seen / self.epoch_seconds if self.stepper.images_seen else 0.0
        self._record(
            "epoch",
            epoch=epoch,
            seconds=self.seconds,
            epoch_seconds=self.epoch_seconds,
            images_per_second=rate,
            objectives=[objective.of for objective in self.job.method.objectives(epoch)],
        )
        self._save(epoch + 1, 0, {})
        self.watcher.epoch(row, rate)

    def finish(self, evaluation: Evaluation | None) -> dict[str, Any]:
        """The run's products; result.json comes last and says that all of them are there."""
        config, job = self.config, self.job
        try:
            evaluation = evaluation or self._evaluate()
            if self.ranks.first:
                # The other ranks have nothing left to do, and are not asked any more.
                self._write_rows()
                write_products(job, self.folder, evaluation, interrupted=self._interrupted)
        except Stopped:
            self.pause(config.epochs, 0)
        result = {
            **identity(config),
            "epochs": config.epochs,
            "exits": evaluation.exits,
            "final": evaluation.final,
            "ensemble": evaluation.ensemble,
            "seconds": round(self.seconds, 3),
            "peak_memory_mb": round(job.machine.peak_memory_mb(), 1),
            "seed": config.seed,
        }
        self._record_profile()
        self.append_event("finish", seconds=self.seconds, peak_memory_mb=result["peak_memory_mb"])
        if self.ranks.first:
            write_json(self.folder.result, result)
        self.watcher.end(result, evaluation)
        return result

    def _evaluate(self) -> Evaluation:
        with timed("evaluation"):
            return evaluate(
                self.job.method,
                self.job.dataset,
                self.job.dataset.test,
                machine=self.job.machine,
                batch_size=self.config.eval_batch_size,
                ensemble=self.config.ensemble,
                interrupted=self.interrupted,
                ranks=self.ranks,
            )

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def restore(self) -> Progress:
        """Put back the newest valid checkpoint, or begin at the beginning; returns the place in training."""
        progress = Progress.of(self.ranks.first_says(lambda: asdict(self._restore())))
        self._began -= progress.seconds
        if self.ranks.world > 1:
            self._load(Checkpoint(progress, *self._state(self.ranks)))
        return progress

    def _restore(self) -> Progress:
        checkpoint, refused = newest_valid(self.folder.checkpoints, identity(self.config))
        for reason in refused:
            self.watcher.note(f"checkpoint refused: {reason}")
        if checkpoint is None:
            self.folder.rewind(0)
            if (started := load_start(self.job.method, self.config)) is not None:
                self.folder.append_event("initial_weights", **started)
                fresh = f"; {', '.join(started['fresh'])} begin anew, for other classes" if started["fresh"] else ""
                self.watcher.note(f"begins with {started['source']}{fresh}")
            return Progress()
        self._load(checkpoint)
        self.folder.rewind(checkpoint.progress.epoch)
        return checkpoint.progress

    def _state(self, ranks: Ranks = ALONE) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Everything that moves in training: of the method, and of the optimizers by "player/parameter/key". The first
        rank's, of several.
        """
        optimizers = {
            f"{name}/{key}": value
            for name, optimizer in self.stepper.optimizers.items()
            for key, value in optimizer.state().items()
        }
        return ranks.spread(self.job.method.state_dict()), ranks.spread(optimizers)

    def _load(self, checkpoint: Checkpoint) -> None:
        load_weights(self.job.method, checkpoint, self.folder.checkpoints)
        for name, optimizer in self.stepper.optimizers.items():
            prefix = f"{name}/"
            optimizer.load_state(
                {
                    key.removeprefix(prefix): value
                    for key, value in checkpoint.optimizers.items()
                    if key.startswith(prefix)
                }
            )

    def _save_within(self, epoch: int, steps: int) -> bool:
        """After so many steps of an epoch, >= 1. Returns: as `_save`."""
        return self._save(epoch, steps, self.stepper.means.totals(self._where(epoch, steps - 1)))

    def _save(self, epoch: int, step: int, means: Mapping[str, tuple[float, int]]) -> bool:
        """Returns: whether it could be written."""
        # The others wait, or they would be far ahead of a rank that writes for a while.
        self.saved = self.ranks.first_says(lambda: self._write_checkpoint(epoch, step, means))
        return self.saved

    def _write_checkpoint(self, epoch: int, step: int, means: Mapping[str, tuple[float, int]]) -> bool:
        progress = Progress(epoch, step, self.seconds, means, identity(self.config))
        checkpoint = Checkpoint(progress, *self._state())
        try:
            self._write_rows()
            with timed("checkpoints"):
                save_checkpoint(self.folder.checkpoints, checkpoint, keep=self.config.keep_checkpoints)
        except (CheckpointError, OSError) as error:
            # Losing a save is better than losing the run: the checkpoint before it is still whole.
            self.watcher.note(f"checkpoint not saved, training goes on: {error}")
            self._record("save_failed", reason=str(error), seconds=self.seconds)
            return False
        return True

    def _write_rows(self) -> None:
        """Those of epochs that results.csv does not hold yet, a full disk's too. Raises: OSError."""
        if self._unwritten:
            self.folder.write_rows([*self.folder.read_rows(), *self._unwritten])
            self._unwritten.clear()

    def _record(self, event: str, **fields: Any) -> None:
        """While training goes on: an event that the disk does not take is lost and no reason to stop."""
        try:
            self.append_event(event, **fields)
        except OSError as error:
            self.watcher.note(f"event {event!r} is missing in {self.folder.events}: {error}")

    def append_event(self, event: str, **fields: Any) -> None:
        """To the folder's; by the first rank for all."""
        if self.ranks.first:
            self.folder.append_event(event, **fields)
