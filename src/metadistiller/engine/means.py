"""Running means of whatever the objectives report in an epoch, kept on the device until somebody asks."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import TrainingError

AGAINST_DIVERGENCE = (
    "take a lower learning rate (--optim.lr), a warm-up (--optim.warmup_epochs 5) or clipping (--optim.clip_norm 5)"
)


class EpochMeans:
    """Sums in float64 and counts, by name, in the order of first appearance."""

    def __init__(self, saved: Mapping[str, tuple[float, int]], device: torch.device) -> None:
        self._device = device
        self._sums = {
            name: torch.tensor(total, dtype=torch.float64, device=device) for name, (total, _) in saved.items()
        }
        self._counts = {name: count for name, (_, count) in saved.items()}

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add one step's values; nothing is waited for."""
        for name, value in parts.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=torch.float64, device=self._device)
                self._counts[name] = 0
            self._sums[name] += value.detach()
            self._counts[name] += 1

    def totals(self, where: str) -> dict[str, tuple[float, int]]:
        """Sums and counts as numbers.

        Args:
            where: place in training, for the message.
        Raises: TrainingError where one is not finite: a step since the last call has gone wrong.
        """
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        for name, total in zip(self._sums, sums, strict=True):
            if not math.isfinite(total):
                raise TrainingError(f"{name} is {total} in {where}: training has diverged; {AGAINST_DIVERGENCE}")
        return dict(zip(self._sums, zip(sums, self._counts.values(), strict=True), strict=True))

    def means(self, where: str) -> dict[str, float]:
        """Raises: TrainingError as `totals`."""
        return {name: total / count for name, (total, count) in self.totals(where).items()}
