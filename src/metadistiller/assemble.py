"""From a Config to a run; and the commands as functions."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from . import report
from .begun import default_folder, is_begun, with_workers_of
from .budget import no_limit
from .building import build_method, changed, is_taught, load_data, method_member, written_out
from .config import Choice, Config, Teacher
from .data import Dataset, class_weights
from .engine import machine as machines
from .engine.answers import answers
from .engine.bfloat16 import REMEDY, miscomputed
from .engine.checkpoint import identity, load_weights, newest_valid
from .engine.evaluate import Evaluation, evaluate
from .engine.examples import soft_target_examples
from .engine.export import shows_alike
from .engine.formats import damages_memory
from .engine.same_images import check_ranks, check_same_images, check_same_test
from .engine.start import load_start
from .engine.step import Job, largest_batch, training_batches
from .engine.teacher import check_kept, finished_teacher, keep_teacher, load_teacher
from .engine.trackers import Tracking, check_trackers
from .engine.train import Watcher
from .engine.train import train as train_job
from .engine.watch import Everyone, Lines, LiveDisplay
from .errors import CheckpointError, ConfigError, DataError, Paused
from .methods import Method
from .nn import Backbone
from .ranks import ALONE, Ranks, joined
from .records import RunFolder, read_json
from .settings import load_config


def assemble(
    config: Config, dataset: Dataset, teacher: Backbone | None = None, *, ranks: Ranks = ALONE, begun: bool = False
) -> Job:
    """A run ready to train; `config` is resolved for this machine, and every default written out, first.

    Args:
        ranks: that train it together, each with a job of its own.
        begun: whether the run has begun, perhaps before its memory format was known to damage memory; then it goes on
            contiguous, as a new one does that leaves its format open.
    Raises: ConfigError, also where the memory format that was asked for damages memory, and where the processor gets a
        layer wrong in the precision that was asked for, or that the run began in.
    """
    given = config
    config = machines.resolve_together(written_out(config), ranks)
    machine = machines.Machine.of(config)
    if teacher is not None:
        machine.place(teacher)
    weights = class_weights(dataset.train.labels, dataset.num_classes, config.class_weights)
    method = build_method(config, dataset, teacher, None if weights is None else weights.to(machine.device), ranks)
    if machine.channels_last and damages_memory(method, machine.device):
        if begun or given.memory_format == "auto":
            # Of a second network, such as dml's, nobody knew when the fastest format was measured.
            return assemble(replace(config, memory_format="contiguous"), dataset, teacher, ranks=ranks)
        raise ConfigError(
            "memory_format is 'channels_last', in which training this network on a processor may write past the end of "
            "memory (strided 1x1 convolutions of fewer than 16 channels); take auto or contiguous, or a wider network"
        )
    machine.place(method)
    if machine.bfloat16 and machine.device.type == "cpu":
        share = -(-largest_batch(config, method) // ranks.world)
        wrong = miscomputed(method, dataset.size, batch_size=share, channels_last=machine.channels_last)
        if ranks.any(wrong is not None):
            if given.precision == "auto":
                return assemble(replace(given, precision="float32"), dataset, teacher, ranks=ranks, begun=begun)
            where = wrong or "on another rank"
            raise ConfigError(
                f"precision is 'bfloat16', and this processor gets a layer wrong in it, {where}; {REMEDY}"
            )
    return Job(config, dataset, training_batches(config, dataset, machine, ranks), method, machine, ranks)


@contextlib.contextmanager
def _watching(folder: RunFolder, sitting: "_Sitting") -> Iterator[Watcher]:
    if not sitting.ranks.first:
        yield Everyone()
        return
    with contextlib.ExitStack() as stack:
        shown = Everyone(Lines(stack.enter_context(folder.log.open("a", encoding="utf-8"))))
        if not sitting.quiet:
            live = sys.stdout.isatty()
            shown = Everyone(shown, stack.enter_context(LiveDisplay(Console())) if live else Lines(sys.stdout))
        yield Everyone(shown, *(stack.enter_context(Tracking(name, shown.note)) for name in sitting.track))


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: where everything is.
        result: what result.json holds.
        before: whether it had been finished before, so that nothing was trained now.
    """

    folder: Path
    result: dict[str, Any]
    before: bool = False


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    auto_resume: bool = False,
    quiet: bool = False,
    command: str = "",
    stop: Callable[[], bool] = no_limit,
    interrupted: Callable[[], bool] = no_limit,
    profile: bool = False,
    track: Sequence[str] = (),
) -> Trained:
    """Train from the beginning into a new folder; writes the report. What `metadistiller train` does.

    A method with a teacher that is not trained yet has it trained first, by plain training with the same settings, in
    the folder `teacher` of the run.

    Args:
        config: see Config; metadistiller.recipe("digits") makes one.
        out: the run folder, which must not exist; None takes runs/DATA-NETWORK-METHOD-sSEED.
        auto_resume: go on with the run that is in `out`, or in the first of the default folders that holds one with
            these settings; begin where there is none. A finished run is returned as it is.
        quiet: nothing on standard output; the run's log.txt is written all the same.
        command: for the record.
        stop: asked between steps whether to save and stop.
        interrupted: the same, asked between batches of an evaluation too.
        profile: measure where the time goes, for the report, of a teacher that is trained first too; what is trained
            stays the same to the bit, but a GPU is waited for more often, so it takes longer there.
        track: trackers to tell of the run, see engine/trackers.py; one that fails changes nothing of it.
    Raises: UsageError where the Config makes no sense, or the run there has other settings; DataError, TrainingError;
        Paused where `stop` or `interrupted` said so.
    """
    check_trackers(track)
    method_member(config)
    config = written_out(config)
    with joined(config.device) as ranks:
        return _begin(config, out, _Sitting(ranks, quiet, command, stop, interrupted, profile, track), auto_resume)


def _begin(config: Config, out: str | Path | None, sitting: "_Sitting", auto_resume: bool) -> Trained:
    ranks = sitting.ranks

    def look() -> tuple[str, bool]:
        place = out or default_folder(config, taking_up=auto_resume)
        return str(place), auto_resume and is_begun(config, place)

    path, there = ranks.first_says(look)
    if there:
        begun = RunFolder(path)
        if ranks.first_says(lambda: begun.finished and begun.report.exists()):
            return Trained(begun.path, read_json(begun.result), before=True)
        return _go_on(begun, with_workers_of(config, load_config(begun)), sitting)
    with ranks.machine_by_machine():
        dataset = load_data(config.data)
    check_ranks(dataset, ranks)
    if config.teacher is not None and config.teacher.run is not None:
        source = finished_teacher(RunFolder.open(config.teacher.run))
        load_teacher(source.weights, config.teacher, config=config, dataset=dataset)
        check_same_test(dataset, source)
    # Whatever makes no sense is found before there is a folder, and before days go into a teacher.
    jobs = [assemble(config, dataset, ranks=ranks)]
    with ranks.machine_by_machine():
        load_start(jobs[0].method, config)
    if ranks.first:
        RunFolder.create(path, jobs[0].config.as_dict())
    return _run(jobs, RunFolder(path), sitting)


def resume(
    run: str | Path,
    *,
    quiet: bool = False,
    command: str = "",
    stop: Callable[[], bool] = no_limit,
    interrupted: Callable[[], bool] = no_limit,
    profile: bool = False,
    track: Sequence[str] = (),
) -> Trained:
    """Go on from the newest valid checkpoint of a run folder, with the run's own settings.

    A run that was killed between its result and its report gets the report.

    Raises: CheckpointError, DataError, TrainingError; Paused where `stop` or `interrupted` said so.
    """
    check_trackers(track)
    folder = RunFolder.open(run)
    config = load_config(folder)
    with joined(config.device) as ranks:
        return _go_on(folder, config, _Sitting(ranks, quiet, command, stop, interrupted, profile, track))


def _go_on(folder: RunFolder, config: Config, sitting: "_Sitting") -> Trained:
    ranks = sitting.ranks
    if ranks.first_says(lambda: folder.finished):
        if ranks.first_says(lambda: folder.report.exists()):
            raise CheckpointError(
                f"{folder} is finished ({folder.result.name} is there); start a new run for more epochs"
            )
        if ranks.first:
            report.write(folder.path)
        return Trained(folder.path, read_json(folder.result))
    with ranks.machine_by_machine():
        dataset = load_data(config.data)
    return _run([assemble(config, dataset, ranks=ranks, begun=True)], folder, sitting)


class _Sitting(NamedTuple):
    """What is said to `train` or `resume` and is no setting of the run, and who trains it."""

    ranks: Ranks
    quiet: bool
    command: str
    stop: Callable[[], bool]
    interrupted: Callable[[], bool]
    profile: bool
    track: Sequence[str]


def _run(jobs: list[Job], folder: RunFolder, sitting: _Sitting) -> Trained:
    """Args: jobs: the one; handed over in a list, so that nobody else keeps it in memory."""
    job = jobs.pop()
    ranks = sitting.ranks
    with folder.locked() if ranks.first else contextlib.nullcontext():
        config, dataset, teacher = job.config, job.dataset, job.config.teacher
        if teacher is not None and is_taught(config):
            # It was made to be checked; the one that trains knows its teacher.
            del job
            if not ranks.first_says(folder.teacher.exists):
                source = _trained_teacher(config, teacher, folder, sitting)
                check_same_test(dataset, source)
                if ranks.first:
                    keep_teacher(source, folder)
                ranks.wait()
            check_kept(folder)
            network = load_teacher(folder.teacher, teacher, config=config, dataset=dataset)
            job = assemble(config, dataset, network, ranks=ranks)
        with _watching(folder, sitting) as watcher:
            result = train_job(
                job,
                folder,
                watcher=watcher,
                command=sitting.command,
                changed=changed(config),
                stop=sitting.stop,
                interrupted=sitting.interrupted,
                profile=sitting.profile,
            )
    if ranks.first:
        report.write(folder.path)
    return Trained(folder.path, result)


def _trained_teacher(config: Config, teacher: Teacher, folder: RunFolder, sitting: _Sitting) -> RunFolder:
    """The finished run of the teacher; trained, or trained further, where it is this run's own."""
    if teacher.run is not None:
        return RunFolder.open(teacher.run)
    own = RunFolder(folder.teacher_run)
    begun, finished = sitting.ranks.first_says(lambda: [own.config.exists(), own.finished])
    try:
        if not begun:
            model = Choice(name=teacher.name, options=teacher.options)
            plain = replace(config, model=model, method=Choice(name="plain"), teacher=None)
            # The weights that a student begins with, and what of it is frozen, are not its teacher's.
            first = replace(plain, pretrained=False, weights=None, freeze=())
            _begin(written_out(first), own.path, sitting, auto_resume=False)
        elif not finished:
            _go_on(own, load_config(own), sitting)
    except Paused:
        raise Paused(
            "stopped in time, while the teacher was being trained; all is saved, and "
            f"'metadistiller resume {folder}' goes on from there"
        ) from None
    return own


@dataclass(frozen=True)
class Restored:
    """A run taken up again to be looked at.

    Attributes:
        config: as the run has it.
        dataset: as the run has it.
        method: on the processor, with the weights of the newest checkpoint.
        epochs_done: how many epochs those weights have seen.
        refused: why newer checkpoints were not taken; empty for a run that is whole.
    """

    config: Config
    dataset: Dataset
    method: Method
    epochs_done: int
    refused: list[str]


def restore(run: str | Path, *, tested: bool = True) -> Restored:
    """The newest valid checkpoint of a run.

    Args:
        tested: whether it is asked about the images that it was tested on, so that these must be the ones. If not, it
            is enough that the network is shown what it was trained to see, where its own file says what that was.
    Raises: CheckpointError where there is none, or where that of a finished run is not its last epoch's: its network
        would not be the one that result.json speaks of; DataError where the images are not the run's.
    """
    folder = RunFolder.open(run)
    config = load_config(folder)
    dataset = load_data(config.data)
    try:
        check_same_images(dataset, folder)
    except DataError:
        if tested or not folder.weights.exists() or not shows_alike(folder.weights, config, dataset):
            raise
    method = build_method(config, dataset)
    checkpoint, refused = newest_valid(folder.checkpoints, identity(config))
    if checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint yet; 'metadistiller resume {run}' trains it")
    done = checkpoint.progress.epoch
    if folder.finished and done < config.epochs:
        reasons = "; ".join(refused) or "a save had failed"
        raise CheckpointError(
            f"{run} is finished, but its last usable checkpoint has {done} of {config.epochs} epochs ({reasons}); "
            f"the trained network itself is {folder.weights}"
        )
    load_weights(method, checkpoint, folder.checkpoints)
    return Restored(config, dataset, method, done, refused)


def evaluate_run(
    run: str | Path, *, ensemble: Literal["logits", "probabilities"] | None = None
) -> tuple[Restored, Evaluation]:
    """Test accuracy of a run's newest checkpoint, finished or not; on this machine's own best device.

    Args:
        ensemble: None takes the run's own.
    Raises: ConfigError, CheckpointError, DataError.
    """
    if ensemble not in (None, "logits", "probabilities"):
        raise ConfigError(f"ensemble is {ensemble!r}; take logits or probabilities")
    found = restore(run)
    evaluation = evaluate(
        found.method,
        found.dataset,
        found.dataset.test,
        machine=_best_machine(found),
        batch_size=found.config.eval_batch_size,
        ensemble=ensemble or found.config.ensemble,
    )
    return found, evaluation


def figure3(
    run: str | Path, images: Sequence[int] | None = None, *, out: str | Path | None = None
) -> tuple[Restored, dict[str, Any]]:
    """What soft targets, exits and the final output say about test images, as in Fig. 3 of the paper; and the mean
    entropies of all of them over the test set.

    Of a run's newest checkpoint, finished or not; on this machine's own best device.

    Args:
        images: places in the test set, from 0; None takes the first image of each of three classes.
        out: the .svg, .png or .pdf file to draw; None draws none.
    Returns: the run, and what its soft_targets.json holds, for these images, with the run's names, seed and epochs.
    Raises: ConfigError, CheckpointError, DataError, TrainingError.
    """
    if out is not None:
        report.check_figure3(out, num_images=1 if images is None else len(images))
    found = restore(run)
    config = found.config
    machine, batch_size = _best_machine(found), config.eval_batch_size
    said = answers(found.method, found.dataset, machine, batch_size=batch_size)
    examples = soft_target_examples(
        found.method, found.dataset, machine, entropy=said.entropy, batch_size=batch_size, index=images
    )
    values = {**identity(config), "seed": config.seed, "epochs": found.epochs_done, **examples}
    if out is not None:
        report.write_figure3(values, out)
    return found, values


def _best_machine(found: Restored) -> machines.Machine:
    """This one, with the restored method on it."""
    # The run may have been trained where there is a GPU, and be looked at where there is none.
    machine = machines.Machine.of(machines.resolve(replace(found.config, device="auto")))
    machine.place(found.method)
    return machine
