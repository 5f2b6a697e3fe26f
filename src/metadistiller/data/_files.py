"""Images that stay in their files: threads decode them when they are asked for, in training a few batches ahead.

Pillow lets go of Python's lock while it decodes and resizes, so threads decode side by side and no process is needed.
"""

import math
import os
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ._augment import Normalise
from ._base import Augment, Dataset, LabelledImages, TrainingView
from ._order import generator
from ._pictures import read_picture
from ._preparation import Preparation
from ._streams import AHEAD

_ATTEMPTS = 10  # at a window that fits into the image; then the middle is taken
_ASPECTS = 3 / 4, 4 / 3  # width by height of a window
_NUM_DRAWS = 2 * _ATTEMPTS + 3  # area and aspect of each attempt; top, left, flip


@dataclass(frozen=True)
class ImageFiles(LabelledImages):
    """Labelled images, encoded: one file each, or kept together and opened by name.

    Evaluation shows the middle of an image whose short side was resized, training a random resized crop.

    Attributes:
        paths: N files, or names.
        labels: (N,) int64, 0 to C-1.
        side: pixels of a side of the square that is shown.
        resize: pixels of the short side before the middle is cut out, at least `side`.
        max_pixels: the largest image that is decoded.
        workers: threads that decode, >= 1; None for one a processor core. Their number changes no bit.
        opened: from an entry of `paths` to what is read, a path or an open file, where the images are no files of
            their own and `paths` holds their names instead.
    Source: torchvision's Resize, CenterCrop, RandomResizedCrop and RandomHorizontalFlip of Pillow images, to the bit.
    Departs: an image that EXIF says was taken sideways is turned upright first.
    """

    paths: Sequence[str]
    labels: Tensor
    side: int
    resize: int
    max_pixels: int
    workers: int | None = None
    opened: Callable[[str], str | BinaryIO] = str

    @property
    def names(self) -> Sequence[str]:
        return self.paths

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    def pixels(self, index: Tensor) -> Tensor:
        with _threads(self.workers) as threads:
            return _Batch(threads, self.middle, index, self.side).pixels().permute(0, 3, 1, 2)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        parts = torch.split(torch.arange(len(self)), batch_size)
        unbegun = iter(parts)
        coming: deque[_Batch] = deque()
        with _threads(self.workers) as threads:
            for part in parts:
                for soon in islice(unbegun, AHEAD + 1 - len(coming)):
                    coming.append(_Batch(threads, self.middle, soon, self.side))
                yield coming.popleft().pixels().permute(0, 3, 1, 2), self.labels[part]

    def take(self, index: Tensor) -> "ImageFiles":
        paths = [self.paths[number] for number in index.tolist()]
        return replace(self, paths=paths, labels=self.labels[index])

    def objection(self) -> str | None:
        if len(self.paths) != len(self.labels):
            return f"are {len(self.paths)}, but there are {len(self.labels)} labels; each image needs one"
        return None

    def training_view(
        self, dataset: Dataset, *, seed: int, device: torch.device, memory_format: torch.memory_format
    ) -> TrainingView:
        return TrainingFiles(self, dataset, seed=seed, device=device, memory_format=memory_format)

    @property
    def preparation(self) -> Preparation:
        """How evaluation shows them."""
        return Preparation(crop=self.size, resize=self.resize, interpolation="bilinear", max_pixels=self.max_pixels)

    def picture(self, number: int) -> Image.Image:
        """The whole image, upright and RGB. Raises: DataError naming the file."""
        try:
            return read_picture(self.opened(self.paths[number]), max_pixels=self.max_pixels)
        # Damaged bytes make the decoders raise nearly anything, so nothing narrower would do.
        except Exception as error:
            raise self._unreadable(number, error) from error

    def middle(self, number: int) -> Image.Image:
        """The image as evaluation shows it. Raises: DataError naming the file."""
        picture = self.picture(number)
        try:
            return self.preparation.shown(picture)
        except DataError as error:
            raise self._unreadable(number, error) from error

    def _unreadable(self, number: int, reason: object) -> DataError:
        return DataError(
            f"{self.paths[number]} cannot be read ({reason}); put a sound copy in its place and resume the run, "
            "or remove it and start again"
        )


class TrainingFiles(TrainingView):
    """Random resized crops of images in files.

    Args:
        images: the files.
        dataset: whose training set they are.
        seed: of the run.
        device: of the batches; pixels move there as uint8 and become numbers there.
        memory_format: of the batches.
    """

    def __init__(
        self,
        images: ImageFiles,
        dataset: Dataset,
        *,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        assert dataset.augment.pad == 0, "a random resized crop has no black border"
        self.labels = images.labels.to(device)
        self.seed = seed
        self.size = images.size
        self.device = device
        self._memory_format = memory_format
        self._normalise = Normalise(dataset, device)
        self._crops = _Crops(images, dataset.augment, seed)
        # By stream, and in it by epoch and images: the batch that was asked for last, and those that were hinted at.
        self._coming: defaultdict[str, dict[tuple[int, bytes], _Batch]] = defaultdict(dict)
        self._threads = new_threads(images.workers)
        # What the threads do must not refer to this object, or it would never be found to be of no use any more.
        weakref.finalize(self, self._threads.shutdown, wait=False, cancel_futures=True)

    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        pixels = self._asked_for(index, epoch, stream).pixels().to(self.device, non_blocking=True)
        images = self._normalise(pixels).contiguous(memory_format=self._memory_format)
        return images, self.labels[index.to(self.device, non_blocking=True)]

    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        self._asked_for(index, epoch, stream)

    def _asked_for(self, index: Tensor, epoch: int, stream: str) -> "_Batch":
        coming = self._coming[stream]
        key = epoch, index.numpy().tobytes()
        batch = coming.pop(key, None)
        if batch is None:
            pinned = self.device.type == "cuda"
            crop = self._crops.of(epoch, stream)
            batch = _Batch(self._threads, crop, index, self._crops.images.side, pinned=pinned)
        coming[key] = batch
        # A method may ask for one batch twice, so it stays until the hints of the next one push it out.
        while len(coming) > AHEAD + 1:
            coming.pop(next(iter(coming))).drop()
        return batch


@dataclass(frozen=True)
class _Crops:
    """What a training image looks like, as a function of seed, stream, epoch and image."""

    images: ImageFiles
    augment: Augment
    seed: int

    def of(self, epoch: int, stream: str) -> Callable[[int], Image.Image]:
        def crop(number: int) -> Image.Image:
            draw = generator(self.seed, "augment", stream, epoch, number)
            draws = torch.rand(_NUM_DRAWS, generator=draw, dtype=torch.float64).tolist()
            picture = self.images.picture(number)
            box = resized_crop_box(picture.size, draws, min_area=self.augment.min_area)
            shown = picture.crop(box).resize((self.images.side, self.images.side), Image.Resampling.BILINEAR)
            mirrored = self.augment.flip and draws[-1] < 0.5
            return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else shown

        return crop


def resized_crop_box(size: tuple[int, int], draws: Sequence[float], *, min_area: float) -> tuple[int, int, int, int]:
    """The window of a random resized crop: left, top, right and bottom in pixels.

    Args:
        size: width and height of the image.
        draws: uniform in [0, 1): area and aspect of each attempt, then top and left of the first window that fits.
        min_area: smallest share of the image's area, above 0 to 1.
    Source: torchvision's RandomResizedCrop.get_params, with ratio 3/4 to 4/3.
    """
    width, height = size
    low, high = map(math.log, _ASPECTS)
    for attempt in range(_ATTEMPTS):
        area = width * height * (min_area + (1 - min_area) * draws[2 * attempt])
        aspect = math.exp(low + (high - low) * draws[2 * attempt + 1])
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(draws[2 * _ATTEMPTS] * (height - tall + 1))
            left = int(draws[2 * _ATTEMPTS + 1] * (width - wide + 1))
            return left, top, left + wide, top + tall
    # The largest window of an aspect that is allowed, in the middle.
    wide, tall = min(width, round(height * _ASPECTS[1])), min(height, round(width / _ASPECTS[0]))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


class _Batch:
    """Images on their way from files into one block of memory.

    Args:
        threads: that decode them.
        show: from an image's number to what is shown of it.
        index: (B,) numbers.
        side: pixels of a side of what is shown.
        pinned: whether the memory can be copied to a GPU while the processor goes on.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        show: Callable[[int], Image.Image],
        index: Tensor,
        side: int,
        *,
        pinned: bool = False,
    ) -> None:
        self._pixels = torch.empty(len(index), side, side, 3, dtype=torch.uint8, pin_memory=pinned)
        rows = self._pixels.numpy()

        def store(row: int, number: int) -> str | None:
            try:
                rows[row] = np.asarray(show(number))
            except DataError as error:
                # Handed on as words: an exception would hold on to everybody who waited for it, and they to it.
                return str(error)
            return None

        self._stored = [threads.submit(store, row, number) for row, number in enumerate(index.tolist())]

    def pixels(self) -> Tensor:
        """Waits for them; (B, H, W, 3) uint8. Raises: DataError where an image cannot be read."""
        for stored in self._stored:
            if (reason := stored.result()) is not None:
                raise DataError(reason)
        return self._pixels

    def drop(self) -> None:
        """They are not wanted any more."""
        for stored in self._stored:
            stored.cancel()


def new_threads(workers: int | None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="decode")


@contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    threads = new_threads(workers)
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
