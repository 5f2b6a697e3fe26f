"""The core of the loop: one step of training, for any method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..data import Batches, Dataset, Mixing, Stream, Train, augmented
from ..methods import Method, Objective
from ..nn import body_parameters, frozen_modules
from ..timing import timed
from .machine import Machine
from .means import EpochMeans
from .optim import PlayerOptimizer, rate_factor


@dataclass(frozen=True)
class Job:
    """A run, assembled.

    Attributes:
        config: resolved: nothing is "auto" any more.
        dataset, batches, method, machine: on the machine's device.
    """

    config: Config
    dataset: Dataset
    batches: Batches
    method: Method
    machine: Machine


def training_batches(config: Config, dataset: Dataset, machine: Machine) -> Batches:
    """Every stream over the training images, with all that a run does to them. Raises: ConfigError."""
    view = dataset.training_view(seed=config.seed, device=machine.device, memory_format=machine.memory_format)
    return Batches(
        augmented(view, dataset, config.augment),
        batch_size=config.batch_size,
        mixing=Mixing.of(config.augment, dataset.num_classes),
        sampling=config.sampling,
    )


class Stepper:
    """Takes steps: every objective that is due gets a batch, a gradient and an update. Waits for nothing.

    Attributes:
        optimizers: of each player.
        means: of the epoch so far.
        images_seen: by the student, since the epoch or this process began.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        network = job.method.deployable()
        body = body_parameters(network.plain, network.num_classes)
        self._frozen = frozen_modules(network.plain, job.config.freeze)
        self.optimizers = {
            name: PlayerOptimizer(player, job.config.optim, body if name == "student" else ())
            for name, player in job.method.players().items()
        }
        self.steps_per_epoch = job.batches.steps_per_epoch
        self._epoch = 0
        self._objectives: tuple[Objective, ...] = ()
        self.means = EpochMeans({}, job.machine.device)
        self.images_seen = 0

    def begin_epoch(self, epoch: int, means: Mapping[str, tuple[float, int]] | None = None) -> None:
        """Args: means: sums and counts of the steps of this epoch that were taken before."""
        self._epoch = epoch
        self._objectives = self._job.method.objectives(epoch)
        self.means = EpochMeans(means or {}, self._job.machine.device)
        self.images_seen = 0
        self._job.method.train()
        for module in self._frozen:
            # Batch statistics are frozen too.
            module.eval()

    def factor(self, step: int) -> float:
        """What all learning rates are multiplied by in a step of this epoch."""
        config = self._job.config
        progress = step / self.steps_per_epoch
        return rate_factor(config.optim, epochs=config.epochs, epoch=self._epoch, progress=progress)

    def step(self, step: int) -> None:
        """Step `step`, from 0, of the epoch that has begun."""
        factor = self.factor(step)
        rates = {name: optimizer.lr * factor for name, optimizer in self.optimizers.items()}
        due = [objective for objective in self._objectives if step % objective.every_steps == 0]
        batches: dict[Stream, Any] = {}
        for objective in due:
            if objective.stream not in batches:
                with timed("data"):
                    batches[objective.stream] = self._job.batches.batch(objective.stream, epoch=self._epoch, step=step)
            self._differentiate(objective, batches[objective.stream], step, rates)
            if not objective.waits:
                self._move(objective.of, factor)
        for objective in due:
            if objective.waits:
                self._move(objective.of, factor)

    def _differentiate(self, objective: Objective, batch: Any, step: int, rates: Mapping[str, float]) -> None:
        machine, seed = self._job.machine, self._job.config.seed
        with timed(objective.of):
            with machine.drawing(seed, "layers", objective.of, self._epoch, step), machine.autocast():
                losses = objective.loss(batch, rates)
            self.optimizers[objective.of].differentiate(losses.total)
            self.means.add(losses.parts)
        if objective.of == "student" and isinstance(objective.stream, Train):
            self.images_seen += len(batch[1])

    def _move(self, player: str, factor: float) -> None:
        with timed(player):
            norm = self.optimizers[player].move(factor=factor)
            self.means.add({f"{player}_gradient_norm": norm})
