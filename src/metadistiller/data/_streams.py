"""What a training step is given: a stream answers `batch(epoch, step)`, whatever it was asked before."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import ConfigError
from ..ranks import ALONE, Ranks
from ._base import TrainingView
from ._mixing import Mixing
from ._order import (
    balanced_batch,
    disjoint_batch,
    halves_batch,
    kept_back,
    pass_batch,
    rank_slice,
    steps_per_epoch,
    train_batch,
)

AHEAD = 2  # batches of a stream that are on their way while one is learned from

Batch: TypeAlias = tuple[Tensor, Tensor]  # images (B, 3, H, W) float32, labels (B,) int64 or mixed (B, C) float32


class Slice(tuple[Tensor, Tensor]):
    """What one of several ranks has of a batch.

    Attributes:
        share: of the images of the batch, 0 to 1. With 0 they are none of the batch's: a rank that has none to do
            learns from others' for nothing, so that all take the same steps.
        total: images of the whole batch.
    """

    share: float
    total: int

    def __new__(cls, batch: Batch, share: float, total: int) -> "Slice":
        made = super().__new__(cls, batch)
        made.share, made.total = share, total
        return made


def share_of(batch: Batch) -> float:
    """Of the images of the whole batch; 1 for a batch that is not divided."""
    return batch.share if isinstance(batch, Slice) else 1.0


def total_of(batch: Batch) -> int:
    """Images of the whole batch."""
    return batch.total if isinstance(batch, Slice) else len(batch[1])


@dataclass(frozen=True, kw_only=True)
class Train:
    """One pass over the whole training set in each epoch; a batch is (images, labels)."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Two disjoint halves, drawn anew each epoch; a batch is the pair (batch of X_train, batch of X_test). Where images
    are kept back, these are the second half in every epoch, and all others the first.

    Attributes:
        heldout_batch_size: images of the X_test batch; None takes the run's batch size. Either is cut to its half.
    """

    heldout_batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Disjoint:
    """Of each step a batch of images that the step's batch of Train has not; a batch is (images, labels). Where images
    are kept back, it is of them alone.

    Attributes:
        batch_size: images of a batch; None takes the run's batch size. Either is cut to what is left of the data.
    """

    batch_size: int | None = None


Stream: TypeAlias = Train | Halves | Disjoint


class Batches:
    """Every stream over one training set. Batches are the same for any number of ranks; each rank has its slice.

    Attributes:
        kept_back: how many images no batch of Train has in any epoch.
    """

    def __init__(
        self,
        images: TrainingView,
        *,
        batch_size: int,
        mixing: Mixing | None = None,
        sampling: Literal["uniform", "balanced"] = "uniform",
        heldout_share: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Args:
            batch_size: images of a step, of all ranks together.
            mixing: what the batches of Train go through; no other stream's do.
            sampling: of Train.
            heldout_share: of each class's images, kept from Train for the held-out batches; 0 to below 1.
            ranks: among which batches are divided.
        Raises: ConfigError where a batch is larger than the training set, or too small to be divided; where the share
            is of less than 2 images.
        """
        if batch_size < 2 * ranks.world:
            raise ConfigError(
                f"batch_size is {batch_size}, which leaves less than 2 images for each of {ranks.world} ranks; it is "
                f"that of all ranks together: take --batch_size {2 * ranks.world} or more, or fewer ranks"
            )
        labels = images.labels.cpu()
        self._trained, self._kept = torch.arange(len(images)), torch.arange(0)
        if heldout_share:
            self._trained, self._kept = kept_back(labels, heldout_share, seed=images.seed)
            if len(self._kept) < 2:
                raise ConfigError(
                    f"heldout_share is {heldout_share}, which of {len(images)} training images, class by class, keeps "
                    f"{len(self._kept)} back; take a larger share, or 0"
                )
        self.kept_back = len(self._kept)
        if batch_size > len(self._trained):
            raise ConfigError(
                f"batch_size is {batch_size}, but the training set has {len(self._trained)} images; "
                f"take --batch_size {max(2, len(self._trained) // 4)} or less"
            )
        self._images = images
        self._mixing = mixing
        self._ranks = ranks
        self._classes: tuple[Tensor, ...] = ()
        if sampling == "balanced":
            of_class = labels[self._trained]
            self._classes = tuple(self._trained[of_class == label] for label in range(int(labels.max()) + 1))
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch(len(self._trained), batch_size)
        # What was asked for last, and the distance to what had been asked before; it serves the hints and nothing else.
        self._asked: dict[Stream, tuple[int, int, int]] = {}

    def batch(self, stream: Stream, *, epoch: int, step: int) -> Batch | tuple[Batch, Batch]:
        """The batch of `stream` at a place in training; the same place gives the same bits.

        Raises: ConfigError where the training set is too small to be halved. DataError where an image cannot be read.
        """
        for soon in self._soon(stream, epoch, step):
            for index, name in self._parts(stream, epoch, soon):
                self._images.prepare(self._own(index, stream)[0], epoch=epoch, stream=name)
        batches = [self._divided(index, stream, name, epoch, step) for index, name in self._parts(stream, epoch, step)]
        return batches[0] if len(batches) == 1 else (batches[0], batches[1])

    def _divided(self, index: Tensor, stream: Stream, name: str, epoch: int, step: int) -> Batch:
        """This rank's slice of the batch of the images at `index`."""
        own, share = self._own(index, stream)
        batch = self._images.batch(own, epoch=epoch, stream=name)
        if self._mixed(stream):
            assert self._mixing is not None
            batch = self._mixing(batch, seed=self._images.seed, epoch=epoch, step=step)
        if self._ranks.world == 1:
            return batch
        if self._mixed(stream):
            images, labels = batch
            batch = images[1:], labels[1:]
        return Slice(batch, share, len(index))

    def _own(self, index: Tensor, stream: Stream) -> tuple[Tensor, float]:
        """This rank's of the images at `index`, and the share that they are of them."""
        if self._ranks.world == 1:
            return index, 1.0
        begin, end, share = rank_slice(len(index), self._ranks.rank, self._ranks.world)
        own = index[begin:end]
        # Each image of a batch is mixed with the one before it, the first with the last.
        return (torch.cat([index[begin - 1, None], own]) if self._mixed(stream) else own), share

    def _mixed(self, stream: Stream) -> bool:
        return self._mixing is not None and isinstance(stream, Train)

    def _parts(self, stream: Stream, epoch: int, step: int) -> list[tuple[Tensor, str]]:
        """Indices of the batches that are asked for together, and the name under which their images are drawn."""
        count, seed = len(self._trained), self._images.seed
        match stream:
            case Train():
                return [(self._train(epoch, step), "train")]
            case Halves(heldout_batch_size=wanted) if self.kept_back:
                index = pass_batch(count, self.batch_size, "X_train", seed=seed, epoch=epoch, step=step)
                return [(self._trained[index], "X_train"), (self._heldout(wanted, epoch, step), "X_test")]
            case Disjoint(batch_size=wanted) if self.kept_back:
                return [(self._heldout(wanted, epoch, step), "X_test")]
            case Halves(heldout_batch_size=wanted):
                if count < 4:
                    raise ConfigError(
                        f"the training set has {count} images, too few for two halves of 2 or more; add images"
                    )
                half = count // 2
                sizes = min(self.batch_size, half), min(wanted or self.batch_size, count - half)
                first, second = halves_batch(count, sizes, seed=seed, epoch=epoch, step=step)
                # The turn of a half is not part of the name: an image seen twice in an epoch looks the same twice.
                return [(first, "X_train"), (second, "X_test")]
            case Disjoint(batch_size=wanted):
                left = count - self.batch_size
                if left < 2:
                    raise ConfigError(
                        f"the training set has {count} images and a step takes {self.batch_size} of them, which leaves "
                        "too few for a held-out batch of 2 or more; take a smaller --batch_size, add images, or take "
                        "--method.lookahead own"
                    )
                size = min(wanted or self.batch_size, left)
                taken = self._train(epoch, step)
                index = disjoint_batch(count, self.batch_size, size, seed=seed, epoch=epoch, step=step, taken=taken)
                return [(index, "X_test")]

    def _train(self, epoch: int, step: int) -> Tensor:
        seed = self._images.seed
        if self._classes:
            return balanced_batch(self._classes, self.batch_size, seed=seed, epoch=epoch, step=step)
        return self._trained[train_batch(len(self._trained), self.batch_size, seed=seed, epoch=epoch, step=step)]

    def _heldout(self, wanted: int | None, epoch: int, step: int) -> Tensor:
        """Of the images that are kept back."""
        size = min(wanted or self.batch_size, self.kept_back)
        return self._kept[pass_batch(self.kept_back, size, "X_test", seed=self._images.seed, epoch=epoch, step=step)]

    def _soon(self, stream: Stream, epoch: int, step: int) -> range:
        """This step and those of the epoch that will probably be asked for next."""
        last_epoch, last_step, distance = self._asked.get(stream, (epoch, step, 1))
        # An update in each third step asks for each third batch; the others would be decoded for nobody.
        if epoch == last_epoch and step > last_step:
            distance = step - last_step
        self._asked[stream] = epoch, step, distance
        return range(step, min(step + AHEAD * distance + 1, self.steps_per_epoch), distance)
