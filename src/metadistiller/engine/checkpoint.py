"""Checkpoints: a folder each, hashed, written under another name, synced and renamed. No pickle.

    checkpoints/e0003-s000120/      3 epochs and 120 steps are done
        method.safetensors          every parameter and buffer of the method
        optimizers.safetensors      "player/parameter/key"
        state.json                  place in training, running means of the epoch, what the run is
        manifest.json               size and SHA-256 of each file, and a digest of itself

None of the formats in use notices a flipped bit by itself, so every byte is checked against the manifest before a
tensor reaches the network.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..config import Config
from ..errors import CheckpointError
from ..methods import Method

FORMAT = 1
_NAME = re.compile(r"e(\d+)-s(\d+)")
_FILES = ("method.safetensors", "optimizers.safetensors", "state.json")


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch, step: the next to do, both from 0.
        seconds: spent so far, over all resumes.
        means: running sum and count of each recorded part in the epoch under way.
        identity: what the run is (method, network, data): a checkpoint of another run is refused.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    means: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        return f"e{self.epoch:04d}-s{self.step:06d}"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on."""

    progress: Progress
    method: dict[str, Tensor]
    optimizers: dict[str, Tensor]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint under `folder` and drop all but the newest `keep`.

    The new one is whole and on the disk before an old one is dropped. Raises: CheckpointError where it cannot be
    written; what was there before is still valid then.
    """
    final = folder / checkpoint.progress.folder_name
    partial = folder / f".{final.name}.partial"
    contents = {
        "method.safetensors": save(dense(checkpoint.method)),
        "optimizers.safetensors": save(dense(checkpoint.optimizers)),
        # Not sorted: the order of the means is the order of the table's columns.
        "state.json": json.dumps({"format": FORMAT, **asdict(checkpoint.progress)}, allow_nan=False).encode(),
    }
    files = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    contents["manifest.json"] = _json({"format": FORMAT, "files": files, "digest": _sha256(_json(files))})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, data in contents.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{final} could not be written ({error}); free some space or choose another disk, "
            "then resume from the checkpoint before it"
        ) from error
    # What sorts later was refused when this run resumed; left there, it would take the places of good ones.
    there = list_checkpoints(folder)
    place = there.index(final) + 1
    for old in (*there[: max(0, place - keep)], *there[place:]):
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders by the place in training that they name, oldest first; half-written ones are not among them."""
    places = {}
    for path in folder.glob("e*-s*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            # As numbers: epoch 10000 comes after 9999, whatever their letters say.
            places[path] = int(match[1]), int(match[2])
    return sorted(places, key=places.__getitem__)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint, checking every byte first. Raises: CheckpointError naming file and reason."""
    contents = _verified(path)
    state = json.loads(contents["state.json"])
    state.pop("format")
    state["means"] = {name: (total, count) for name, (total, count) in state["means"].items()}
    try:
        method, optimizers = (load(contents[name]) for name in _FILES[:2])
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from None
    return Checkpoint(Progress(**state), method, optimizers)


def newest_valid(folder: Path, identity: Mapping[str, str]) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were refused; None where there is no checkpoint at all.

    Raises: CheckpointError where a whole one belongs to another run, or where there are some and none is whole: to
        begin again over what is left of a run is nothing that should happen by itself.
    """
    refused = []
    for path in reversed(list_checkpoints(folder)):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            refused.append(str(error))
            continue
        for key, wanted in identity.items():
            found = checkpoint.progress.identity.get(key)
            if found != wanted:
                raise CheckpointError(
                    f"{path} was written with {key} {found!r}, this run has {wanted!r}; use another --out"
                )
        return checkpoint, refused
    if refused:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used: {'; '.join(refused)}; delete them to train from the beginning"
        )
    return None, refused


def identity(config: Config) -> dict[str, str]:
    """What a run is: a checkpoint with another identity is not its own."""
    return {"method": config.method.name, "network": config.model.name, "data": config.data.name}


def load_weights(method: Method, checkpoint: Checkpoint, folder: Path) -> None:
    """Put a checkpoint's parameters and buffers into a method built from config.yaml.

    Args:
        folder: where the checkpoint came from, for the message.
    Raises: CheckpointError where they do not fit.
    """
    try:
        method.load_state_dict(checkpoint.method)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint in {folder} does not fit the network of config.yaml "
            f"({str(error).splitlines()[-1].strip()}); was config.yaml edited?"
        ) from None


def _verified(path: Path) -> dict[str, bytes]:
    manifest = _read(path / "manifest.json")
    try:
        listed = json.loads(manifest)
        files, digest = listed["files"], listed["digest"]
        names = set(files)
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path / 'manifest.json'} is damaged: not a manifest") from None
    if _json({"format": listed.get("format"), "files": files, "digest": digest}) != manifest:
        raise CheckpointError(f"{path / 'manifest.json'} is damaged: not as it was written")
    if _sha256(_json(files)) != digest:
        raise CheckpointError(f"{path / 'manifest.json'} is damaged: its digest does not match")
    if listed["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {listed['format']!r}, this version reads {FORMAT}; "
            "resume it with the version that wrote it"
        )
    if names != set(_FILES):
        raise CheckpointError(f"{path / 'manifest.json'} is damaged: it lists {sorted(names)}")
    contents = {}
    for name in _FILES:
        data = _read(path / name)
        if len(data) != files[name]["size"]:
            raise CheckpointError(f"{path / name} is damaged: {len(data)} bytes instead of {files[name]['size']}")
        if _sha256(data) != files[name]["sha256"]:
            raise CheckpointError(f"{path / name} is damaged: its SHA-256 does not match the manifest")
        contents[name] = data
    return contents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def dense(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the processor, row by row, as safetensors stores them.

    A channels_last tensor comes back in the layout of whatever it is copied into.
    """
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        for name, tensor in tensors.items()
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
