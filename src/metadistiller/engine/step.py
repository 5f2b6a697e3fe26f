"""The core of the loop: one step of training, for any method."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data import Batches, Dataset, Disjoint, Halves, Mixing, Stream, Train, augmented, share_of, total_of
from ..methods import Losses, Method, Objective
from ..nn import Synchronised, body_parameters, frozen_modules
from ..ranks import ALONE, Ranks
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
        ranks: that train it together, each with a job of its own.
    """

    config: Config
    dataset: Dataset
    batches: Batches
    method: Method
    machine: Machine
    ranks: Ranks = ALONE


def training_batches(config: Config, dataset: Dataset, machine: Machine, ranks: Ranks = ALONE) -> Batches:
    """Every stream over the training images, with all that a run does to them. Raises: ConfigError."""
    view = dataset.training_view(seed=config.seed, device=machine.device, memory_format=machine.memory_format)
    return Batches(
        augmented(view, dataset, config.augment),
        batch_size=config.batch_size,
        mixing=Mixing.of(config.augment, dataset.num_classes),
        sampling=config.sampling,
        heldout_share=config.heldout_share,
        ranks=ranks,
    )


def largest_batch(config: Config, method: Method) -> int:
    """Images of the largest batch that an objective asks for in any epoch, of all ranks together."""
    sizes = [config.batch_size]
    for epoch in range(config.epochs):
        for objective in method.objectives(epoch):
            match objective.stream:
                case Halves(heldout_batch_size=int(size)) | Disjoint(batch_size=int(size)):
                    sizes.append(size)
    return max(sizes)


class Stepper:
    """Takes steps: every objective that is due gets a batch, a gradient and an update. Waits for nothing.

    Of several ranks each does its slice of every batch. After each objective they sum, in one message, its gradient,
    what it reports and how far it has moved running statistics: so all ranks have the same bits at every place in
    training.

    Attributes:
        optimizers: of each player.
        means: of the epoch so far.
        images_seen: by the student, since the epoch or this process began; of all ranks.
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
        self._ranks = job.ranks
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
        first = batch if torch.is_tensor(batch[0]) else batch[0]
        # Another rank's layers draw something else for its images.
        place = (objective.of, self._epoch, step, *((self._ranks.rank,) if self._ranks.rank else ()))
        before = self._statistics()
        with timed(objective.of):
            with machine.drawing(seed, "layers", *place), machine.autocast(), self._synchronised(share_of(first)):
                losses = objective.loss(batch, rates)
            share = share_of(first) if losses.share is None else losses.share
            self.optimizers[objective.of].differentiate(losses.total * share if self._ranks.world > 1 else losses.total)
            self.means.add(self._summed(objective, losses, share, before))
        if objective.of == "student" and isinstance(objective.stream, Train):
            self.images_seen += total_of(batch)

    def _synchronised(self, share: float) -> AbstractContextManager[object]:
        if self._ranks.world == 1 or self._job.config.batch_statistics == "local":
            return nullcontext()
        return Synchronised(self._ranks, counts=share > 0)

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Of what layers keep while they train (running statistics): each buffer, and a copy of it as it is now."""
        if self._ranks.world == 1:
            return []
        modules = [module for module in self._job.method.modules() if module.training]
        buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
        return [(buffer, buffer.clone()) for buffer in buffers if buffer.is_floating_point()]

    def _summed(
        self, objective: Objective, losses: Losses, share: float, before: list[tuple[Tensor, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Sums over ranks, each rank's times its share: in place, of the gradient and of what the layers keep; and of
        what the objective reports, returned.
        """
        if self._ranks.world == 1:
            return losses.parts
        with timed("exchange"):
            # What has moved, and not the buffers themselves: shares add up to 1 but for rounding.
            moved = [(buffer - earlier) * share for buffer, earlier in before]
            values = [part.detach().double() for part in losses.parts.values()]
            parts = torch.stack(values) * share if values else torch.zeros(0, dtype=torch.float64)
            self._ranks.sum_([*self.optimizers[objective.of].gradients(), *moved, parts])
            for (buffer, earlier), change in zip(before, moved, strict=True):
                # .data: a graph that waits for its turn has taken these buffers along, without a use for them.
                buffer.data.copy_(earlier + change)
        return dict(zip(losses.parts, parts, strict=True))

    def _move(self, player: str, factor: float) -> None:
        with timed(player):
            norm = self.optimizers[player].move(factor=factor)
            self.means.add({f"{player}_gradient_norm": norm})
