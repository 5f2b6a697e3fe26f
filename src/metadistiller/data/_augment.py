"""Images as a network wants them: drawn per image, applied to the whole batch at once, on the data's device.

What happens to an image is a function of (seed, epoch, stream, image), so it does not matter which batch it falls into.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ._base import Dataset, TrainingView
from ._order import generator


@lru_cache(maxsize=8)
def _draws(count: int, seed: int, epoch: int, stream: str) -> Mapping[str, Tensor]:
    """Five uniform numbers in [0, 1) for each image of an epoch."""
    uniform = torch.rand(5, count, generator=generator(seed, "augment", stream, epoch))
    return dict(zip(("top", "left", "flip", "area", "aspect"), uniform, strict=True))


class Normalise:
    """uint8 pixels to float32, so that a data set's channels have mean 0 and deviation 1.

    Args:
        dataset: whose size, mean and deviation are taken.
        device: of the pixels.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        scale = 1 / (255 * torch.tensor(dataset.std))
        shift = -torch.tensor(dataset.mean) / torch.tensor(dataset.std)
        # For a whole line of pixels: three numbers would be added in loops of three, at half the speed or less.
        self._scale, self._shift = (channels.repeat(dataset.size[1]).to(device) for channels in (scale, shift))

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W), in memory still a row of channels a pixel."""
        values = pixels.float()
        lines = values.view(*values.shape[:2], -1)
        torch.addcmul(self._shift, lines, self._scale, out=lines)
        return values.permute(0, 3, 1, 2)


class TrainingImages(TrainingView):
    """The training set on a device, as uint8 pixels with a black border, and the way to a batch of it.

    Args:
        dataset: whose training set is shown.
        seed: of the run.
        device: where the pixels stay.
        memory_format: of the batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.augment = dataset.augment
        self.seed = seed
        self.device = device
        self._memory_format = memory_format
        self.size = dataset.size
        self.labels = dataset.train.labels.to(device)
        border = (self.augment.pad,) * 4
        ((images, _),) = dataset.train.batches(len(dataset.train))
        padded = F.pad(images, border)
        self._padded_size = padded.shape[2], padded.shape[3]
        # One row a pixel: crop and mirror are then a single gather, and its result is channels_last as it stands.
        self._pixels = padded.permute(0, 2, 3, 1).reshape(-1, 3).contiguous().to(device)
        self._normalise = Normalise(dataset, device)

    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (B, 3, H, W) float32 and labels (B,) int64 of the images at `index` (B,)."""
        draws = {name: value[index] for name, value in _draws(len(self), self.seed, epoch, stream).items()}
        index = index.to(self.device, non_blocking=True)
        images = self._crop(index, draws)
        if self.augment.min_area < 1:
            images = _resized_crop(images, draws, self.augment.min_area)
        return images.contiguous(memory_format=self._memory_format), self.labels[index]

    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        """Nothing to do: a batch is one gather."""

    def _crop(self, index: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        (height, width), (tall, wide) = self.size, self._padded_size
        places = 2 * self.augment.pad + 1
        top = (draws["top"] * places).long().to(self.device, non_blocking=True)
        left = (draws["left"] * places).long().to(self.device, non_blocking=True)
        rows = top[:, None] + torch.arange(height, device=self.device)
        columns = torch.arange(width, device=self.device).expand(len(index), width)
        if self.augment.flip:
            mirrored = (draws["flip"] < 0.5).to(self.device, non_blocking=True)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        columns = left[:, None] + columns
        pixels = ((index * tall)[:, None] + rows)[:, :, None] * wide + columns[:, None, :]
        values = self._pixels.index_select(0, pixels.flatten()).view(len(index), height, width, 3)
        return self._normalise(values)


def _resized_crop(images: Tensor, draws: Mapping[str, Tensor], min_area: float) -> Tensor:
    """A random window of each image, of area min_area to 1 and aspect 3/4 to 4/3, stretched to the full size.

    Source: the "Inception crop" of Szegedy et al., CVPR 2015, as torchvision's RandomResizedCrop draws it.
    Departs: a window that would not fit has its aspect brought to the nearest that fits instead of being drawn again,
        so that a draw is one number.
    """
    area = min_area + (1 - min_area) * draws["area"]
    aspect = torch.exp((2 * draws["aspect"] - 1) * torch.log(torch.tensor(4 / 3)))
    # Beyond these bounds a side would be longer than the image's own, and cutting it would lose area.
    aspect = torch.minimum(torch.maximum(aspect, area), 1 / area)
    tall = (area / aspect).sqrt().clamp_max(1)
    wide = (area * aspect).sqrt().clamp_max(1)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide, tall
    theta[:, 0, 2] = (1 - wide) * (2 * draws["left"] - 1)
    theta[:, 1, 2] = (1 - tall) * (2 * draws["top"] - 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def evaluation_images(images: Tensor, dataset: Dataset) -> Tensor:
    """Normalised images as they are; (N, 3, H, W) uint8 to float32, on the images' device."""
    return normalised(images, dataset.mean, dataset.std)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The same by the mean and deviation of each channel, in units of 0..1."""
    shift, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images.float() / 255 - shift) / scale
