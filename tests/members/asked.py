"""A test set and methods to ask about it, with the answers by hand."""

import math
from typing import Any

import torch
from torch import Tensor

from metadistiller.data import Augment, Dataset, ImageSet
from metadistiller.engine.machine import Machine
from metadistiller.methods import Method
from metadistiller.nn import MultiExit

from . import toys

CPU = Machine(torch.device("cpu"), bfloat16=False, channels_last=False)
COUNT = 23


def dataset(labels: list[int] | None = None) -> Dataset:
    """23 test images of five classes; no two look alike."""
    drawn = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (COUNT, 3, *toys.SIZE), dtype=torch.uint8, generator=drawn)
    test = ImageSet(pixels, torch.tensor(labels or [(3 * place + 2) % toys.CLASSES for place in range(COUNT)]))
    train = ImageSet(pixels[:5], torch.arange(5))
    return Dataset(
        name="toy",
        train=train,
        test=test,
        classes=tuple("abcde"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        augment=Augment(),
        source="drawn",
    )


def method_of(name: str) -> Method:
    """With running statistics that are not the initial ones, so that evaluation mode shows."""
    method = toys.make(name)
    with torch.no_grad():
        for step in range(3):
            method.train().exits(toys.batch(step)[0])
    return method


def by_hand(method: Method, images: Tensor) -> dict[str, Any]:
    """Targets, exits and final output of all test images at once, float32, evaluation mode."""
    method.eval()
    with torch.no_grad():
        outputs = [torch.softmax(logits, 1) for logits in method.exits(images)]
        return {"targets": method.soft_targets(images), "exits": outputs[:-1], "final": outputs[-1]}


def entropy(shares: Tensor) -> float:
    """Mean over the images, one by one and with Python's own numbers."""
    rows = [[share for share in row if share > 0] for row in shares.tolist()]
    return math.fsum(-share * math.log(share) for row in rows for share in row) / len(rows)


class Sure(torch.nn.Module):
    """A method whose answers have zeros in them, or worse; its student is there for its costs alone."""

    evaluating = Method.evaluating
    num_exits = 3

    def __init__(self, worst: float = 0.0) -> None:
        super().__init__()
        self.worst = worst
        self.costly = toys.make("dsn")

    def exits(self, images: Tensor) -> list[Tensor]:
        one_hot = torch.zeros(len(images), toys.CLASSES)
        one_hot[:, 0] = 1000.0
        return [*(torch.zeros(len(images), toys.CLASSES) for _ in range(self.num_exits)), one_hot]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        shares = torch.zeros(len(images), toys.CLASSES)
        shares[:, :2] = 0.5
        shares[0, 0] += self.worst
        return [shares] * self.num_exits

    def multi_exit(self) -> MultiExit | None:
        return self.costly.multi_exit()
