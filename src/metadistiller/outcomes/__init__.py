"""What every output of a finished run says of its test images, and what follows from it; numpy alone, no torch.

__init__.py     the logits of all outputs, the labels, and what each output costs: outcomes.safetensors of a run folder;
                what outputs are called
calibration.py  whether a probability is what it says: reliability, temperature scaling
policy.py       which exit answers which image: thresholds, what they save and what they lose
choosing.py     thresholds for a target
chosen.py       what was chosen and measured: early_exit.json of a run folder
mistakes.py     where the final output is most certain and wrong: mistakes.json of a run folder
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import CheckpointError
from ..records import write_bytes

Floats: TypeAlias = NDArray[np.floating]
Integers: TypeAlias = NDArray[np.int64]

LARGEST = 64 * 2**20  # bytes of logits that are kept


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Answers of S_1..S_K to n of the N test images.

    Attributes:
        logits: (K, n, C) float32; the last are those of the final output.
        labels: (n,) 0 to C-1.
        index: (n,) places in the test set, rising; fewer than N where all would take more than 64 MiB.
        total: N.
        trunk_macs: K numbers; multiply-accumulates of the network for one image up to the end of stage k, of the last
            one with the head: what the plain network costs.
        exit_macs: K - 1 numbers; of each early exit by itself.
    """

    logits: Floats
    labels: Integers
    index: Integers
    total: int
    trunk_macs: tuple[int, ...]
    exit_macs: tuple[int, ...]

    def __post_init__(self) -> None:
        num_outputs, count, num_classes = self.logits.shape
        for good, what in (
            (count >= 1, "no images"),
            (self.labels.shape == self.index.shape == (count,), "labels or places of another number of images"),
            (len(self.trunk_macs) == num_outputs == len(self.exit_macs) + 1, "costs of another number of outputs"),
            (min(self.trunk_macs) > 0 <= min(self.exit_macs, default=0), "costs below nothing"),
            (self.labels.min() >= 0 and self.labels.max() < num_classes, "labels out of range"),
            (self.index.min() >= 0 and self.index.max() < self.total, "places out of range"),
            (bool(np.isfinite(self.logits).all()), "logits that are not finite"),
        ):
            if not good:
                raise ValueError(what)

    @property
    def num_outputs(self) -> int:
        """K."""
        return len(self.logits)

    @cached_property
    def answers(self) -> Integers:
        """(K, n): the likeliest class of each output."""
        found: Integers = self.logits.argmax(2)
        return found

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(K, n): whether that is the label."""
        found: NDArray[np.bool_] = self.answers == self.labels
        return found

    def of(self, chosen: NDArray[np.bool_]) -> "Outcomes":
        """Those of some images alone; `chosen` is (n,)."""
        return Outcomes(
            logits=self.logits[:, chosen],
            labels=self.labels[chosen],
            index=self.index[chosen],
            total=self.total,
            trunk_macs=self.trunk_macs,
            exit_macs=self.exit_macs,
        )


def exit_names(num_exits: int) -> list[str]:
    """What S_1..S_{K-1} are called wherever a person reads of them: "exit 1" and so on."""
    return [f"exit {k}" for k in range(1, num_exits + 1)]


def output_names(num_outputs: int) -> list[str]:
    """The same of S_1..S_K: the last is "final"."""
    return [*exit_names(num_outputs - 1), "final"]


def kept_places(total: int, *, num_outputs: int, num_classes: int) -> Integers:
    """Which of `total` test images are kept: all, or as many as fit, evenly spread; rising."""
    count = min(total, max(1, LARGEST // (4 * num_outputs * num_classes)))
    return np.arange(count, dtype=np.int64) * total // count


def halves(labels: Integers) -> NDArray[np.bool_]:
    """(n,): which images are in the second half; in each class every other one, as far as the numbers allow."""
    second = np.empty(len(labels), dtype=bool)
    second[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2 == 1
    return second


def write(outcomes: Outcomes, path: Path) -> None:
    """As one safetensors file; the same outcomes give the same bytes."""
    rest = {"total": outcomes.total, "trunk_macs": outcomes.trunk_macs, "exit_macs": outcomes.exit_macs}
    arrays: dict[str, NDArray[Any]] = {
        "logits": np.ascontiguousarray(outcomes.logits, dtype=np.float32),
        "labels": np.ascontiguousarray(outcomes.labels, dtype=np.int64),
        "index": np.ascontiguousarray(outcomes.index, dtype=np.int64),
    }
    # One key only: the order of several is not fixed in the file.
    write_bytes(path, save(arrays, metadata={"outcomes": json.dumps(rest)}))


def read(path: Path) -> Outcomes:
    """What `write` wrote. Raises: CheckpointError where it is missing or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is not there: the run is not finished, or older than this file; "
            f"'metadistiller resume {path.parent}' finishes one"
        ) from None
    try:
        arrays = load(data)
        # The file begins with the length of its header, which is JSON.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        rest = json.loads(header["__metadata__"]["outcomes"])
        return Outcomes(
            logits=arrays["logits"],
            labels=arrays["labels"],
            index=arrays["index"],
            total=int(rest["total"]),
            trunk_macs=tuple(map(int, rest["trunk_macs"])),
            exit_macs=tuple(map(int, rest["exit_macs"])),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path} does not hold what a finished run writes ({type(error).__name__}: {error}); "
            "it was damaged or edited"
        ) from None
