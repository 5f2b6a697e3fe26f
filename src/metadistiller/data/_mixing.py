"""What training images go through besides crop and mirror: policies and erasing by image, mixing by batch.

torchvision draws from torch's global generator, so each image has it seeded, in the thread that asks for the batch.
On one processor thread that gives 1,600 images/s of 32 x 32 pixels with randaugment, 3,700 with autoaugment and 4,200
with trivialaugment (68,600 with none), and 220, 310 and 360 of 224 x 224 (1,230 with none).
"""

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..config import Augmentation
from ._base import Dataset, TrainingView
from ._order import seeded

_SMALL = 64  # pixels of a side up to which autoaugment's policy is CIFAR-10's


class AugmentedView(TrainingView):
    """Another view whose images also go through a policy and random erasing.

    The policy sees uint8 pixels: the other view's images, with the normalisation undone and the values rounded.

    Args:
        view: the other one.
        dataset: whose mean and deviation it normalised with.
        augment: what happens.
    """

    def __init__(self, view: TrainingView, dataset: Dataset, augment: Augmentation) -> None:
        self._view = view
        self.labels, self.seed, self.size = view.labels, view.seed, view.size
        self._mean, self._std = (
            (255 * torch.tensor(values, device=view.labels.device))[:, None, None]
            for values in (dataset.mean, dataset.std)
        )
        self._policy = _policy(augment.policy, max(view.size))
        self._erasing = v2.RandomErasing(augment.random_erasing) if augment.random_erasing else None

    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        images, labels = self._view.batch(index, epoch=epoch, stream=stream)
        shown = torch.empty_like(images)
        for row, number in enumerate(index.tolist()):
            with seeded(self.seed, "augmentation", stream, epoch, number):
                shown[row] = self._change(images[row])
        return shown, labels

    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        self._view.prepare(index, epoch=epoch, stream=stream)

    def _change(self, image: Tensor) -> Tensor:
        if self._policy is not None:
            pixels = (image * self._std + self._mean).round().clamp(0, 255).to(torch.uint8)
            image = (self._policy(pixels).float() - self._mean) / self._std
        return image if self._erasing is None else self._erasing(image)


def augmented(view: TrainingView, dataset: Dataset, augment: Augmentation) -> TrainingView:
    """`view` with what `augment` does to an image; itself where that is nothing."""
    if augment.policy == "none" and augment.random_erasing == 0:
        return view
    return AugmentedView(view, dataset, augment)


def _policy(name: str, side: int) -> v2.Transform | None:
    match name:
        case "randaugment":
            return v2.RandAugment()
        case "autoaugment":
            known = v2.AutoAugmentPolicy
            return v2.AutoAugment(known.CIFAR10 if side <= _SMALL else known.IMAGENET)
        case "trivialaugment":
            return v2.TrivialAugmentWide()
    return None


class Mixing:
    """Mixup or CutMix of a batch with itself, moved on by one: a function of seed, epoch and step.

    Args:
        num_classes: C.
        mixup, cutmix: alpha of each, >= 0; 0 for none, not both.
    """

    def __init__(self, num_classes: int, *, mixup: float, cutmix: float) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self._kinds = [kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha > 0]

    @classmethod
    def of(cls, augment: Augmentation, num_classes: int) -> "Mixing | None":
        """None where nothing is mixed."""
        if augment.mixup == augment.cutmix == 0:
            return None
        return cls(num_classes, mixup=augment.mixup, cutmix=augment.cutmix)

    def __call__(self, batch: tuple[Tensor, Tensor], *, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) int64 to images and probabilities (B, C) float32."""
        images, labels = batch
        with seeded(seed, "mixing", "train", epoch, step):
            kind = self._kinds[int(torch.randint(len(self._kinds), ()))]
            mixed, shares = kind(images, labels)
        return torch.empty_like(images).copy_(mixed), shares


def class_weights(labels: Tensor, num_classes: int, kind: str) -> Tensor | None:
    """A weight for each class, mean 1 over the images; (C,) float32, or None for kind "none".

    Args:
        labels: (N,) int64; every class has one.
        kind: none, inverse (N / (C n_c)) or effective (proportional to 1 / (1 - beta^n_c), beta 0.999).
    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, eq. 2.
    Departs: the original's weights have mean 1 over classes.
    """
    if kind == "none":
        return None
    counts = torch.bincount(labels.cpu(), minlength=num_classes).double()
    weights = 1 / counts if kind == "inverse" else 1 / (1 - 0.999**counts)
    return (weights * counts.sum() / (weights * counts).sum()).float()
