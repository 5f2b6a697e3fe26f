"""From a Config to everything that a run is made of; and the commands as functions."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from . import report
from .config import Choice, Config
from .data import Batches, Dataset, TrainingImages, seeded
from .engine import machine as machines
from .engine.checkpoint import identity, load_weights, newest_valid
from .engine.evaluate import Evaluation, evaluate
from .engine.export import export_network
from .engine.train import Job, Watcher
from .engine.train import train as train_job
from .engine.watch import Everyone, Lines, LiveDisplay
from .errors import CheckpointError, ConfigError
from .lookup import FAMILIES, find
from .methods import Method, Setting
from .nn import build_network
from .records import RunFolder, read_json
from .settings import load_config


def load_data(data: Choice) -> Dataset:
    """The data set called `data.name`. Raises: UnknownName, ConfigError, DataError."""
    member = find(*FAMILIES["data"], data.name)
    dataset: Dataset = member.build(member.configure(data.options))
    return dataset


def build_method(config: Config, dataset: Dataset) -> Method:
    """Network and method, with weights that depend on the seed alone. Raises: UnknownName, ConfigError, ShapeError."""
    with seeded(config.seed, "backbone"):
        backbone = build_network(config.model, dataset.num_classes)
    member = find(*FAMILIES["method"], config.method.name)
    setting = Setting(backbone, dataset.size, config.seed, config.label_smoothing)
    method: Method = member.build(member.configure(config.method.options), setting)
    return method


def assemble(config: Config, dataset: Dataset) -> Job:
    """A run ready to train; `config` is resolved for this machine, and every default written out, first."""
    config = machines.resolve(written_out(config))
    machine = machines.Machine.of(config)
    method = build_method(config, dataset)
    machine.place(method)
    images = TrainingImages(dataset, seed=config.seed, device=machine.device, memory_format=machine.memory_format)
    return Job(config, dataset, Batches(images, batch_size=config.batch_size), method, machine)


def written_out(config: Config) -> Config:
    """The same Config with every option of data, network and method in it. Raises: UnknownName, ConfigError."""
    choices: dict[str, Any] = {
        family: Choice(name=chosen.name, options=find(*FAMILIES[family], chosen.name).written_out(chosen.options))
        for family, chosen in (("data", config.data), ("model", config.model), ("method", config.method))
    }
    return replace(config, **choices)


def default_folder(config: Config, parent: str | Path = "runs") -> Path:
    """The first free runs/DATA-NETWORK-METHOD-sSEED[-N]."""
    name = f"{config.data.name}-{config.model.name}-{config.method.name}-s{config.seed}".replace("/", "_")
    path, count = Path(parent) / name, 1
    while path.exists():
        count += 1
        path = Path(parent) / f"{name}-{count}"
    return path


@contextlib.contextmanager
def _watching(folder: RunFolder, *, quiet: bool) -> Iterator[Watcher]:
    with contextlib.ExitStack() as stack:
        log = Lines(stack.enter_context(folder.log.open("a", encoding="utf-8")))
        if quiet:
            yield log
        elif sys.stdout.isatty():
            yield Everyone(log, stack.enter_context(LiveDisplay(Console())))
        else:
            yield Everyone(log, Lines(sys.stdout))


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: where everything is.
        result: what result.json holds.
    """

    folder: Path
    result: dict[str, Any]


def train(config: Config, out: str | Path | None = None, *, quiet: bool = False, command: str = "") -> Trained:
    """Train from the beginning into a new folder; writes the report. What `metadistiller train` does.

    Args:
        config: see Config; metadistiller.recipe("digits") makes one.
        out: the run folder, which must not exist; None takes runs/DATA-NETWORK-METHOD-sSEED.
        quiet: nothing on standard output; the run's log.txt is written all the same.
        command: for the record.
    Raises: UsageError where the Config makes no sense, DataError, TrainingError.
    """
    job = assemble(config, load_data(config.data))
    folder = RunFolder.create(out or default_folder(config), job.config.as_dict())
    return _run(job, folder, quiet=quiet, command=command)


def resume(run: str | Path, *, quiet: bool = False, command: str = "") -> Trained:
    """Go on from the newest valid checkpoint of a run folder, with the run's own settings.

    A run that was killed between its result and its report gets the report.

    Raises: CheckpointError, DataError, TrainingError.
    """
    folder = RunFolder.open(run)
    if folder.finished and not folder.report.exists():
        report.write(folder.path)
        return Trained(folder.path, read_json(folder.result))
    if folder.finished:
        raise CheckpointError(f"{run} is finished ({folder.result.name} is there); start a new run for more epochs")
    config = load_config(folder)
    return _run(assemble(config, load_data(config.data)), folder, quiet=quiet, command=command)


def _run(job: Job, folder: RunFolder, *, quiet: bool, command: str) -> Trained:
    with folder.locked(), _watching(folder, quiet=quiet) as watcher:
        result = train_job(job, folder, watcher=watcher, command=command)
    report.write(folder.path)
    return Trained(folder.path, result)


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


def restore(run: str | Path) -> Restored:
    """The newest valid checkpoint of a run.

    Raises: CheckpointError where there is none, or where that of a finished run is not its last epoch's: its network
        would not be the one that result.json speaks of.
    """
    folder = RunFolder.open(run)
    config = load_config(folder)
    dataset = load_data(config.data)
    method = build_method(config, dataset)
    checkpoint, refused = newest_valid(folder.checkpoints, identity(config))
    if checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint yet; train it first")
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
    # The run may have been trained where there is a GPU, and be looked at where there is none.
    config = machines.resolve(replace(found.config, device="auto"))
    machine = machines.Machine.of(config)
    machine.place(found.method)
    evaluation = evaluate(
        found.method,
        found.dataset,
        found.dataset.test,
        machine=machine,
        batch_size=config.eval_batch_size,
        ensemble=ensemble or config.ensemble,
    )
    return found, evaluation


def export(run: str | Path, out: str | Path | None = None) -> tuple[Path, int]:
    """The plain network of a run as one safetensors file, proved on test images.

    Returns: the file, and how many images gave bitwise the same logits.
    Raises: ExportError where one did not.
    """
    found = restore(run)
    path = Path(out) if out is not None else Path(run) / "exported.safetensors"
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file, such as {path / 'network.safetensors'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, export_network(found.method, path, config=found.config, dataset=found.dataset)
