"""A training view that shows no pixels and remembers what it was asked for."""

import torch
from torch import Tensor

from metadistiller.data import TrainingView


class Recorder(TrainingView):
    """Remembers what it was hinted at and asked for: kind, epoch, stream, first index."""

    def __init__(self, count: int) -> None:
        self.labels, self.seed, self.size = torch.arange(count), 3, (1, 1)
        self.calls: list[tuple[str, int, str, tuple[int, ...]]] = []

    def batch(self, index: Tensor, *, epoch: int, stream: str) -> tuple[Tensor, Tensor]:
        self.calls.append(("batch", epoch, stream, tuple(index.tolist())))
        return index, index

    def prepare(self, index: Tensor, *, epoch: int, stream: str) -> None:
        self.calls.append(("prepare", epoch, stream, tuple(index.tolist())))

    def taken(self) -> list[tuple[str, int, str, tuple[int, ...]]]:
        calls, self.calls = self.calls, []
        return calls
