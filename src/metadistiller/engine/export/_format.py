"""What a format of exported networks must give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...methods import Method


@dataclass(frozen=True)
class Opened:
    """A network read back from a file.

    Attributes:
        header: what the file says of itself.
        answers: of the pixels of pictures, (N, 3, H, W) uint8, as evaluation shows them: logits (N, C) float32 of
            every output that the file has, the final output last.
        leaving: of a file with early exits: the same pixels, and a threshold for every exit or None for the file's own;
            returns probabilities (N, C) of the output that answered each image, and which that was, (N,) from 0.
        num_outputs: how many the file has.
    """

    header: dict[str, Any]
    answers: Callable[[Tensor], Sequence[Tensor]]
    leaving: Callable[[Tensor, float | None], tuple[Tensor, Tensor]] | None = None
    num_outputs: int = 1


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to write a network down.

    Attributes:
        name: as --format has it.
        suffix: how its files end, with the dot; empty for a folder of files.
        write: method, file and header to that file, which is new; the method is on the processor, in evaluation mode.
        open: reads a file of anybody's and runs nothing that came with it, but for arithmetic. Raises: CheckpointError;
            ConfigError where a package is missing that reads it.
        shipped: runs the file as those do who have it from us; for files that were written here just now.
        exact: whether its logits are bitwise the trained network's, or as near as `_proof` says.
        strict: whether other programs know the format by `suffix` only.
        require: raises ConfigError where a package is missing that writes it.
    """

    name: str
    suffix: str
    write: Callable[[Method, Path, Mapping[str, Any]], None]
    open: Callable[[Path], Opened]
    shipped: Callable[[Path], Opened]
    exact: bool = False
    strict: bool = True
    require: Callable[[], None] = _nothing
