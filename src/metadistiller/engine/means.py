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
    """Sums in float64 and counts, by name, in the order of first appearance.

    What is added together is summed together, as one vector: on a GPU three small operations a step instead of two for
    each name.
    """

    def __init__(self, saved: Mapping[str, tuple[float, int]], device: torch.device) -> None:
        self._device = device
        self._saved = dict(saved)
        self._sums: dict[tuple[str, ...], Tensor] = {}
        # Also the order of the names.
        self._counts = {name: count for name, (_, count) in saved.items()}

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add one step's values, of which each always comes in the same company; nothing is waited for."""
        if not parts:
            return
        names = tuple(parts)
        if names not in self._sums:
            assert not any(name in group for name in names for group in self._sums), "a value has two companies"
            begin = [self._saved.get(name, (0.0, 0))[0] for name in names]
            self._sums[names] = torch.tensor(begin, dtype=torch.float64, device=self._device)
        self._sums[names] += torch.stack([value.detach() for value in parts.values()])
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1

    def totals(self, where: str) -> dict[str, tuple[float, int]]:
        """Sums and counts as numbers.

        Args:
            where: place in training, for the message.
        Raises: TrainingError where one is not finite: a step since the last call has gone wrong.
        """
        sums = {name: total for name, (total, _) in self._saved.items()}
        if self._sums:
            names = [name for group in self._sums for name in group]
            sums |= dict(zip(names, torch.cat(list(self._sums.values())).tolist(), strict=True))
        for name, total in sums.items():
            if not math.isfinite(total):
                raise TrainingError(f"{name} is {total} in {where}: training has diverged; {AGAINST_DIVERGENCE}")
        return {name: (sums[name], count) for name, count in self._counts.items()}

    def means(self, where: str) -> dict[str, float]:
        """Raises: TrainingError as `totals`."""
        return {name: total / count for name, (total, count) in self.totals(where).items()}
