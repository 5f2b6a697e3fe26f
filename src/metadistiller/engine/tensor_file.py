"""Reading a safetensors file of anybody's."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError


def read_tensor_file(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Its header's metadata, and its tensors by name. Raises: CheckpointError naming file and reason."""
    try:
        with safe_open(path, framework="pt") as file:
            # Not a mapping, though it has keys.
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
