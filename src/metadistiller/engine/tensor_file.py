"""Reading a network back from a file of anybody's: nothing in it runs, and it takes no more memory than the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, UsageError

LARGEST_SIDE = 2048  # pixels of images that a file may ask for
M = TypeVar("M", bound=nn.Module)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata in a safetensors file's header. Raises: CheckpointError naming file and reason."""
    return _read(path, with_tensors=False)[0]


def read_tensor_file(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Its header's metadata, and its tensors by name. Raises: CheckpointError naming file and reason."""
    return _read(path, with_tensors=True)


def _read(path: str | Path, *, with_tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Not a mapping, though it has keys.
            names = file.keys() if with_tensors else ()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def parse(text: str, path: str | Path) -> dict[str, Any]:
    """A header that is a JSON object. Raises: CheckpointError where it is none."""
    try:
        header = json.loads(text)
    # Brackets enough are no ValueError.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged header (it is no JSON object)")
    return header


def filled(
    make: Callable[[], M],
    parts: Callable[[M], Mapping[str, nn.Module]],
    tensors: Mapping[str, Tensor],
    path: str | Path,
) -> M:
    """What `make` makes, with the weights of a file, in evaluation mode.

    It is made without memory first: a header may name a network of any size, and its weights are as large as the file.

    Args:
        parts: modules of it by the prefix that their weights have in the file.
    Raises: CheckpointError where it cannot be made, or where the file holds other weights.
    """
    with torch.device("meta"):
        wanted = _shapes(parts(_made(make, path)))
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != held:
        name = min(wanted.items() ^ held.items())[0]
        raise CheckpointError(
            f"{path} does not hold the network that it names: {name} is {held.get(name, 'not there')}, and would be "
            f"{wanted.get(name, 'nothing of it')}"
        )
    module = _made(make, path)
    for prefix, part in parts(module).items():
        part.load_state_dict({name.removeprefix(prefix): tensors[name] for name in wanted if name.startswith(prefix)})
    return module.eval()


def _made(make: Callable[[], M], path: str | Path) -> M:
    try:
        return make()
    # Options that nobody could mean fail wherever the network first uses them.
    except (UsageError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path} names a network that cannot be built: {' '.join(str(error).split())[:300]}"
        ) from None


def _shapes(parts: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}{name}": tuple(tensor.shape)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
