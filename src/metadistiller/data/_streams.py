"""What a training step is given: a stream answers `batch(epoch, step)` and remembers nothing."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..errors import ConfigError
from ._augment import TrainingImages
from ._order import halves_batch, steps_per_epoch, train_batch

Batch: TypeAlias = tuple[Tensor, Tensor]  # images (B, 3, H, W) float32, labels (B,) int64


@dataclass(frozen=True, kw_only=True)
class Train:
    """One pass over the whole training set in each epoch; a batch is (images, labels)."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Two disjoint halves, drawn anew each epoch; a batch is the pair (batch of X_train, batch of X_test).

    Attributes:
        heldout_batch_size: images of the X_test batch; None takes the run's batch size. Either is cut to its half.
    """

    heldout_batch_size: int | None = None


Stream: TypeAlias = Train | Halves


class Batches:
    """Every stream over one training set."""

    def __init__(self, images: TrainingImages, *, batch_size: int) -> None:
        """Raises: ConfigError where a batch is larger than the training set."""
        if batch_size > len(images):
            raise ConfigError(
                f"batch_size is {batch_size}, but the training set has {len(images)} images; "
                f"take --batch_size {max(2, len(images) // 4)} or less"
            )
        self._images = images
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch(len(images), batch_size)

    def batch(self, stream: Stream, *, epoch: int, step: int) -> Batch | tuple[Batch, Batch]:
        """The batch of `stream` at a place in training; the same place gives the same bits.

        Raises: ConfigError where the training set is too small to be halved.
        """
        count, seed = len(self._images), self._images.seed
        match stream:
            case Train():
                index = train_batch(count, self.batch_size, seed=seed, epoch=epoch, step=step)
                return self._images.batch(index, epoch=epoch, stream="train")
            case Halves(heldout_batch_size=wanted):
                if count < 4:
                    raise ConfigError(
                        f"the training set has {count} images, too few for two halves of 2 or more; add images"
                    )
                half = count // 2
                sizes = min(self.batch_size, half), min(wanted or self.batch_size, count - half)
                first, second = halves_batch(count, sizes, seed=seed, epoch=epoch, step=step)
                # The turn of a half is not part of the name: an image seen twice in an epoch looks the same twice.
                return (
                    self._images.batch(first, epoch=epoch, stream="X_train"),
                    self._images.batch(second, epoch=epoch, stream="X_test"),
                )
