"""Checkpoints: a folder each, hashed, written under another name, synced and renamed. No pickle.

    checkpoints/e0003-s000120/      3 epochs and 120 steps are done
        method.safetensors          every parameter and buffer of the method
        optimizers.safetensors      "player/parameter/key"
        state.json                  place in training, running means of the epoch, what the run is
        manifest.json               size and SHA-256 of each file, and a digest of itself

None of the formats in use notices a flipped bit by itself, so every byte is checked against the manifest before a
tensor reaches the network.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
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
_NAME = re.compile(r"e(\d+)-s(\d+)(?:-(\d+))?")  # the last: of several of one place in training
_LEFT_OVER = ".e*-s*.partial"  # by a save that was killed
_FILES = ("method.safetensors", "optimizers.safetensors", "state.json")
_MALFORMED = (ValueError, KeyError, TypeError, RecursionError, OverflowError)  # what JSON of another form leads to


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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Progress":
        """From the same as JSON has it. Raises: what malformed values raise."""
        return cls(
            epoch=int(values["epoch"]),
            step=int(values["step"]),
            seconds=float(values["seconds"]),
            means={name: (total, int(count)) for name, (total, count) in values["means"].items()},
            identity=dict(values["identity"]),
        )


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on."""

    progress: Progress
    method: dict[str, Tensor]
    optimizers: dict[str, Tensor]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint under `folder` and drop all but the newest `keep`.

    The new one is whole and on the disk before an old one is dropped. An old one of the same place in training keeps
    its name until then, and the new one's ends in a number. What an earlier save left half-written is removed first.

    Raises: CheckpointError where it cannot be written; what was there before is still valid then.
    """
    name = checkpoint.progress.folder_name
    contents = _contents(checkpoint)
    try:
        final = _write(folder, name, contents)
    except OSError as error:
        raise CheckpointError(
            f"{folder / name} could not be written ({error}); free some space there or see to its permissions, or "
            "resume elsewhere from the checkpoint before it"
        ) from error
    # The new one is safe; what cannot be dropped now is dropped after the next save.
    with contextlib.suppress(OSError):
        _drop_others(folder, final, keep=keep)
    return final


def _contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files by name, the manifest last."""
    contents = {
        "method.safetensors": save(dense(checkpoint.method)),
        "optimizers.safetensors": save(dense(checkpoint.optimizers)),
        # Not sorted: the order of the means is the order of the table's columns.
        "state.json": json.dumps({"format": FORMAT, **asdict(checkpoint.progress)}, allow_nan=False).encode(),
    }
    files = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    return contents | {"manifest.json": _json({"format": FORMAT, "files": files, "digest": _sha256(_json(files))})}


def _write(folder: Path, name: str, contents: Mapping[str, bytes]) -> Path:
    """A folder of these files, on the disk, under a name that nothing else has. Raises: OSError."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        _sync(folder.parent)
    for left_over in folder.glob(_LEFT_OVER):
        shutil.rmtree(left_over, ignore_errors=True)
    needed, free = sum(map(len, contents.values())), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"it takes {needed:,} bytes, {free:,} are free")
    partial = folder / f".{name}.partial"
    # A folder cannot take the place of another in one step, and between two steps there would be none.
    final = folder / _free_name(folder, name)
    try:
        partial.mkdir()
        for file_name, data in contents.items():
            with (partial / file_name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(partial)
        partial.rename(final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(folder)
    return final


def _free_name(folder: Path, name: str) -> str:
    wanted = _place(name)
    taken = [place[2] for path in folder.iterdir() if (place := _place(path.name)) and place[:2] == wanted[:2]]
    return f"{name}-{max(taken) + 1}" if taken else name


def _drop_others(folder: Path, final: Path, *, keep: int) -> None:
    # What sorts later was refused when this run resumed; left there, it would take the places of good ones.
    there = list_checkpoints(folder)
    place = _place(final.name)[:2]
    earlier = [path for path in there if _place(path.name)[:2] < place]
    kept = {final, *earlier[max(0, len(earlier) - keep + 1) :]}
    for path in there:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _place(name: str) -> tuple[int, ...]:
    """Epoch, step and number that a folder's name says, as numbers: 10000 comes after 9999. () for other names."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3] or 1)) if match else ()


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders by the place in training that they name, oldest first; half-written ones are not among them."""
    found = [path for path in folder.glob("e*-s*") if _place(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: _place(path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint, checking every byte first. Raises: CheckpointError naming file and reason."""
    contents = _verified(path)
    progress = _progress(path / "state.json", contents["state.json"])
    named = _place(path.name)[:2]
    if named and named != (progress.epoch, progress.step):
        raise CheckpointError(f"{path} holds {progress.folder_name} in its state.json; was the folder renamed?")
    tensors = {}
    for name in _FILES[:2]:
        try:
            tensors[name] = load(contents[name])
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path / name} is not a safetensors file ({error})") from None
    return Checkpoint(progress, *tensors.values())


def _progress(path: Path, data: bytes) -> Progress:
    try:
        return Progress.of(json.loads(data))
    except (*_MALFORMED, AttributeError) as error:
        raise CheckpointError(f"{path} is not the state of a run ({type(error).__name__}: {error})") from None


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
    """The files, each as the manifest says."""
    place = path / "manifest.json"
    manifest = _read(place)
    try:
        listed = json.loads(manifest)
        files, digest = listed["files"], listed["digest"]
        sizes = {str(name): (file["size"], file["sha256"]) for name, file in files.items()}
        written = _json({"format": listed.get("format"), "files": files, "digest": digest})
    except (*_MALFORMED, AttributeError):
        raise CheckpointError(f"{place} is damaged: not a manifest") from None
    if written != manifest:
        raise CheckpointError(f"{place} is damaged: not as it was written")
    if _sha256(_json(files)) != digest:
        raise CheckpointError(f"{place} is damaged: its digest does not match")
    if listed["format"] != FORMAT:
        raise CheckpointError(
            f"{place} has format {listed['format']!r}, this version reads {FORMAT}; "
            "resume it with the version that wrote it"
        )
    if set(sizes) != set(_FILES):
        raise CheckpointError(f"{place} is damaged: it lists {sorted(sizes)}")
    contents = {}
    for name in _FILES:
        size, sha256 = sizes[name]
        data = _read(path / name)
        if len(data) != size:
            raise CheckpointError(f"{path / name} is damaged: {len(data)} bytes instead of {size}")
        if _sha256(data) != sha256:
            raise CheckpointError(f"{path / name} is damaged: its SHA-256 does not match the manifest")
        contents[name] = data
    return contents


def _read(path: Path) -> bytes:
    try:
        # A pipe would be waited for, and a device has no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} cannot be read: it is no plain file")
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
