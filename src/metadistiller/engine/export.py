"""The plain network as one safetensors file that needs nothing else: weights, and in its header how to use them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import Choice, Config
from ..data import Dataset, evaluation_images
from ..errors import CheckpointError, ExportError
from ..methods import Method
from ..nn import Backbone, build_network
from ..records import write_bytes
from .checkpoint import dense


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
    header = {
        "model": config.model.as_dict(),
        "classes": list(dataset.classes),
        "size": list(dataset.size),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "preparation": dataset.picture_preparation.as_dict(),
    }
    # One key only: the order of several is not fixed in the file, and the same network must give the same bytes.
    write_bytes(path, save(dense(network.plain.state_dict()), metadata={"network": json.dumps(header)}))


def load_network(path: Path) -> NetworkFile:
    """Read what save_network wrote. Raises: CheckpointError naming file and reason."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if "network" not in metadata:
        raise CheckpointError(f"{path} was not written by this package: its header names no network")
    try:
        header = json.loads(metadata["network"])
        model = dict(header["model"])
        choice, classes = Choice(name=model.pop("name"), options=model), len(header["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
    network = build_network(choice, classes)
    try:
        network.plain.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the network that it names: {str(error).splitlines()[-1].strip()}"
        ) from None
    return NetworkFile(network.eval(), header)


@torch.no_grad()
def export_network(method: Method, path: Path, *, config: Config, dataset: Dataset, count: int = 1000) -> int:
    """Write the plain network, read it back, and ask both the same images.

    Args:
        method: as trained, on the processor.
        count: test images that are compared, at most.
    Returns: how many were compared.
    Raises: ExportError where one logit differs in one bit; what was at `path` before is still there then.
    """
    proof = path.with_name(f".{path.name}.unproved")
    try:
        save_network(method.deployable(), proof, config=config, dataset=dataset)
        compared = _compare(method, load_network(proof).network, path, config, dataset, count)
        proof.replace(path)
    finally:
        proof.unlink(missing_ok=True)
    return compared


def _compare(method: Method, network: Backbone, path: Path, config: Config, dataset: Dataset, count: int) -> int:
    method.eval()
    images = dataset.test.take(torch.arange(min(count, len(dataset.test))))
    for pixels, _ in images.batches(config.eval_batch_size):
        shown = evaluation_images(pixels, dataset)
        trained: Tensor = method.exits(shown)[-1]
        exported: Tensor = network(shown)
        if not torch.equal(trained, exported):
            gap = (trained - exported).abs().max().item()
            raise ExportError(
                f"{path}: the exported network's logits differ from the trained one's by up to {gap:.3g}; "
                "nothing was exported. Please report this with the run's config.yaml"
            )
    return len(images)
