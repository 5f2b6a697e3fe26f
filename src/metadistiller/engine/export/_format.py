"""What a format of exported networks must give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...nn import Backbone


@dataclass(frozen=True)
class Opened:
    """A network read back from a file.

    Attributes:
        header: what the file says of itself.
        answer: logits (N, C) float32 of the pixels of pictures, (N, 3, H, W) uint8, as evaluation shows them.
    """

    header: dict[str, Any]
    answer: Callable[[Tensor], Tensor]


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to write a network down.

    Attributes:
        name: as --format has it.
        suffix: how its files end, with the dot.
        write: network, file and header to that file, which is new.
        open: reads a file of anybody's and runs nothing that came with it, but for arithmetic. Raises: CheckpointError;
            ConfigError where a package is missing that reads it.
        shipped: runs the file as those do who have it from us; for files that were written here just now.
        exact: whether its logits are bitwise the trained network's, or as near as `_proof` says.
        strict: whether other programs know the format by `suffix` only.
        require: raises ConfigError where a package is missing that writes it.
    """

    name: str
    suffix: str
    write: Callable[[Backbone, Path, Mapping[str, Any]], None]
    open: Callable[[Path], Opened]
    shipped: Callable[[Path], Opened]
    exact: bool = False
    strict: bool = True
    require: Callable[[], None] = _nothing
