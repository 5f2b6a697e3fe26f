"""Images that are all in memory: decoded once, then never waited for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._augment import TrainingImages
from ._base import Dataset, LabelledImages, TrainingView


@dataclass(frozen=True)
class ImageSet(LabelledImages):
    """Labelled images as one tensor.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, 0 to C-1.
        names: of the files, N of them, or none.
    """

    images: Tensor
    labels: Tensor
    names: Sequence[str] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    def pixels(self, index: Tensor) -> Tensor:
        return self.images[index]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        parts = torch.split(self.images, batch_size), torch.split(self.labels, batch_size)
        return zip(*parts, strict=True)

    def take(self, index: Tensor) -> "ImageSet":
        names = [self.names[number] for number in index.tolist()] if self.names else ()
        return ImageSet(self.images[index], self.labels[index], names)

    def objection(self) -> str | None:
        images = self.images
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            return f"are {images.dtype} {tuple(images.shape)}; they must be uint8 (N, 3, H, W)"
        if len(images) != len(self.labels):
            return f"are {len(images)}, but there are {len(self.labels)} labels; each image needs one"
        return None

    def training_view(
        self, dataset: Dataset, *, seed: int, device: torch.device, memory_format: torch.memory_format
    ) -> TrainingView:
        return TrainingImages(dataset, seed=seed, device=device, memory_format=memory_format)
