"""The plain network as one safetensors file that needs nothing else: weights, and in its header how to use them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ...config import Config
from ...data import Dataset, normalised
from ...errors import CheckpointError
from ...methods import Method
from ...nn import Backbone
from ...outcomes.policy import uniform
from ...records import write_bytes
from ..checkpoint import dense
from ..early_exit import KEY as EARLY_KEY
from ..early_exit import EarlyExitClassifier, load_early_exit
from ..tensor_file import parse, read_metadata, read_tensor_file
from ._format import Format, Opened
from ._header import KEY, described, header_of, network_of


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


def shows_alike(path: str | Path, config: Config, dataset: Dataset) -> bool:
    """Whether a network that save_network wrote is of these classes, and is shown pictures as `dataset` shows them.

    Raises: CheckpointError where the file cannot be read.
    """
    header = read_metadata(path).get(KEY)
    return header is not None and parse(header, path) == json.loads(json.dumps(header_of(config, dataset)))


def load_network(path: Path) -> NetworkFile:
    """Read what save_network wrote. Raises: CheckpointError naming file and reason."""
    metadata, tensors = read_tensor_file(path)
    if EARLY_KEY in metadata:
        raise CheckpointError(f"{path} holds a network with early exits; metadistiller.load_early_exit reads it")
    if KEY not in metadata:
        raise CheckpointError(f"{path} was not written by this package: its header names no network")
    return with_weights(parse(metadata[KEY], path), tensors, path)


def with_weights(header: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> NetworkFile:
    """The network that a header names with the weights of its file. Raises: CheckpointError."""
    return NetworkFile(network_of(header, tensors, path), header)


def answering(file: NetworkFile, path: Path) -> Opened:
    """Raises: CheckpointError where the header does not say how pixels are normalised."""
    how, network = described(file.header, path), file.network

    @torch.no_grad()
    def answers(pixels: Tensor) -> list[Tensor]:
        return [network(normalised(pixels, how.mean, how.std))]

    return Opened(file.header, answers)


def _open(path: Path) -> Opened:
    return _with_exits(path) if EARLY_KEY in read_metadata(path) else answering(load_network(path), path)


def _with_exits(path: Path) -> Opened:
    """What `metadistiller calibrate` wrote."""
    classifier = load_early_exit(path)
    shown, student, policy = classifier.shown, classifier.student, classifier.policy
    number = len(policy.temperatures)

    @torch.no_grad()
    def answers(pixels: Tensor) -> list[Tensor]:
        logits: list[Tensor] = student(normalised(pixels, shown.mean, shown.std))[1]
        return logits

    @cache
    def asked(threshold: float | None) -> EarlyExitClassifier:
        if threshold is None:
            return classifier
        return classifier.with_policy(uniform(number, threshold, policy.temperatures))

    def leaving(pixels: Tensor, threshold: float | None) -> tuple[Tensor, Tensor]:
        found = asked(threshold)(normalised(pixels, shown.mean, shown.std))
        return found.probabilities, found.exits

    how = {"classes": shown.classes, "size": shown.size, "mean": shown.mean, "std": shown.std}
    return Opened({**how, "preparation": shown.preparation.as_dict()}, answers, leaving, number)


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
