"""The plain network as one safetensors file that needs nothing else: weights, and in its header how to use them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...config import Config
from ...data import Dataset, normalised
from ...errors import CheckpointError
from ...methods import Method
from ...nn import Backbone
from ...records import write_bytes
from ..checkpoint import dense
from ._format import Format, Opened
from ._header import KEY, described, header_of, network_of, parse


@dataclass(frozen=True)
class NetworkFile:
    """A network read back from a file.

    Attributes:
        network: on the processor, in evaluation mode.
        header: model, classes, size, mean, std, preparation (older files have none), as written by save_network.
    """

    network: Backbone
    header: dict[str, Any]


def save_network(network: Backbone, path: Path, *, config: Config, dataset: Dataset) -> None:
    """Write the plain network: no exit and no generator weight is inside."""
    _save(network, path, header_of(config, dataset))


def _save(network: Backbone, path: Path, header: Mapping[str, Any]) -> None:
    write_bytes(path, save(dense(network.plain.state_dict()), metadata={KEY: json.dumps(header)}))


def load_network(path: Path) -> NetworkFile:
    """Read what save_network wrote. Raises: CheckpointError naming file and reason."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if KEY not in metadata:
        raise CheckpointError(f"{path} was not written by this package: its header names no network")
    return with_weights(parse(metadata[KEY], path), tensors, path)


def with_weights(header: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> NetworkFile:
    """The network that a header names with the weights of its file. Raises: CheckpointError."""
    network = network_of(header, path)
    try:
        network.plain.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the network that it names: {str(error).splitlines()[-1].strip()}"
        ) from None
    return NetworkFile(network.eval(), header)


def answering(file: NetworkFile, path: Path) -> Opened:
    """Raises: CheckpointError where the header does not say how pixels are normalised."""
    how, network = described(file.header, path), file.network

    @torch.no_grad()
    def answers(pixels: Tensor) -> list[Tensor]:
        return [network(normalised(pixels, how.mean, how.std))]

    return Opened(file.header, answers)


def _open(path: Path) -> Opened:
    return answering(load_network(path), path)


def _write(method: Method, path: Path, header: Mapping[str, Any]) -> None:
    _save(method.deployable(), path, header)


FORMAT = Format(
    name="safetensors",
    suffix=".safetensors",
    write=_write,
    open=_open,
    shipped=_open,
    exact=True,
    strict=False,
)
