"""The plain network of a run as a file that is put to work, with a card beside it that says what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import report
from .assemble import Restored, restore
from .config import require
from .engine.export import (
    Format,
    Proof,
    Quantised,
    check_name,
    export_network,
    find_format,
    quantise_network,
    with_policy,
)
from .outcomes import chosen
from .outcomes.policy import Policy
from .records import RunFolder


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        format: its name.
        proof: what was compared with the trained network.
        card: README.md, or where somebody else's has that name, one with the file's name before.
        quantised: the file of 8-bit numbers, where one was asked for.
        epochs_done: how many of the run's epochs the network has seen.
    """

    path: Path
    format: str
    proof: Proof
    card: Path
    quantised: Quantised | None
    epochs_done: int


class _Request(NamedTuple):
    format: Format
    int8: bool


def export(
    run: str | Path, out: str | Path | None = None, *, format: str = "safetensors", int8: bool = False
) -> Exported:
    """The plain network of a run's newest checkpoint as one file, proved on up to 1,000 test images; and its card.

    Args:
        out: the file, or of onnx-stages the folder; None takes RUN/exported with the format's ending.
        format: safetensors, torch (a program of torch.export), onnx, or onnx-stages: a folder of ONNX graphs, one a
            stage, early exits included, with the thresholds that `metadistiller calibrate` chose, or 0.9.
        int8: of onnx, write a second file with 8-bit whole numbers beside it: FILE.onnx and FILE.int8.onnx.
    Raises: ExportError where the file does not answer as the trained network does; nothing is changed then.
        UnknownName, ConfigError, CheckpointError; DataError where the data set is not there, or has become one that is
        shown in another way, or with `int8`, which counts what it gets right, where it has other images.
    """
    request = _request(format, int8)
    path = Path(out) if out is not None else Path(run) / f"exported{request.format.suffix or '-stages'}"
    check_name(path, request.format)
    folder = RunFolder.open(run)
    # Before anything takes long.
    policy = None if request.format.suffix else _calibrated(folder)
    found = restore(run, tested=int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _export(found, folder, path, request, policy)


def _request(format: str, int8: bool) -> _Request:
    found = find_format(format)
    require(not int8 or found.name == "onnx", "int8", int8, f"quantisation is of --format onnx, not of {format}")
    found.require()
    return _Request(found, int8)


def _export(found: Restored, folder: RunFolder, path: Path, request: _Request, policy: Policy | None) -> Exported:
    proof = export_network(found.method, path, request.format, config=found.config, dataset=found.dataset)
    if policy is not None:
        with_policy(path, policy)
    quantised = None
    if request.int8:
        quantised = quantise_network(path, path.with_suffix(".int8.onnx"), dataset=found.dataset)
    card = report.write_card(
        folder.path,
        report.Shipped(
            path=path,
            format=request.format.name,
            classes=found.dataset.classes,
            preparation=found.dataset.picture_preparation.as_dict(),
            epochs_done=found.epochs_done,
            epochs=found.config.epochs,
            compared=proof.count,
            gap=proof.gap,
            calibrated=policy is not None,
            quantised=None if quantised is None else _told(quantised),
        ),
    )
    return Exported(path, request.format.name, proof, card, quantised, found.epochs_done)


def _told(quantised: Quantised) -> report.ShippedInt8:
    return report.ShippedInt8(
        path=quantised.path,
        accuracy=quantised.accuracy,
        float_accuracy=quantised.float_accuracy,
        count=quantised.count,
    )


def _calibrated(folder: RunFolder) -> Policy | None:
    """What `metadistiller calibrate` chose; None where it was not asked. Raises: CheckpointError."""
    return chosen.read(folder.early_exit).policy if folder.early_exit.exists() else None
