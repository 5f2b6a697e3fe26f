"""Damage to a checkpoint, drawn by a number: what disks, half-finished copies, kills and curious people do to files.

Two checkpoints lie in a folder; the later one is damaged, and must be refused before a tensor of it is read, by a
message of one line that names what was damaged; the earlier one must be taken.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from metadistiller.engine import checkpoint as checkpoints
from metadistiller.engine.checkpoint import Checkpoint, Progress, newest_valid, save_checkpoint
from metadistiller.errors import CheckpointError

TENSORS = ("method.safetensors", "optimizers.safetensors")
FILES = (*TENSORS, "state.json", "manifest.json")  # in the order in which they are written
PAGE = 4096
IDENTITY = {"method": "dsn", "network": "resnet10", "data": "digits"}

Contents = dict[str, bytes]
Draw = random.Random
# Changes the files of the later checkpoint; gives the names of which its refusal must have one.
Kind = Callable[[Draw, Contents, Mapping[str, bytes]], tuple[str, ...]]


def _changed(draw: Draw, files: Contents, change: Callable[[bytes], bytes]) -> tuple[str, ...]:
    name = draw.choice(FILES)
    files[name] = change(files[name])
    return (name,)


def flipped_bit(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    def flip(data: bytes) -> bytes:
        place, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]

    return _changed(draw, files, flip)


def truncated(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    return _changed(draw, files, lambda data: data[: draw.randrange(len(data))])


def zeroed_page(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    def zero(data: bytes) -> bytes:
        start = PAGE * draw.randrange(-(-len(data) // PAGE))
        end = min(len(data), start + PAGE)
        return data[:start] + bytes(end - start) + data[end:]

    return _changed(draw, files, zero)


def swapped_pages(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    name = draw.choice(TENSORS)
    data = files[name]
    a, b = (PAGE * page for page in sorted(draw.sample(range(len(data) // PAGE), 2)))
    files[name] = data[:a] + data[b : b + PAGE] + data[a + PAGE : b] + data[a : a + PAGE] + data[b + PAGE :]
    return (name,)


def grown(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    return _changed(draw, files, lambda data: data + draw.randbytes(1 + draw.randrange(PAGE)))


def empty(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    return _changed(draw, files, lambda data: b"")


def missing(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    name = draw.choice(FILES)
    del files[name]
    return (name,)


def under_a_temporary_name(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    name = draw.choice(FILES)
    files[name + draw.choice((".tmp", ".partial", "~", ".1"))] = files.pop(name)
    return (name,)


def swapped_within(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    a, b = draw.sample(FILES, 2)
    files[a], files[b] = files[b], files[a]
    return a, b


def of_the_earlier(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    """Some files, all but one at most, are those of the checkpoint before it; the manifest among them or not."""
    taken = draw.sample(FILES, draw.randint(1, len(FILES) - 1))
    files |= {name: earlier[name] for name in taken}
    return FILES if "manifest.json" in taken else tuple(taken)


def another_checkpoint(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    """Whole, and under a name that is not its own; the refusal names the folder."""
    files |= earlier
    return ("",)


def half_written(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    """As a power cut leaves it that comes between a file and its sync: cut there, and nothing after it."""
    last = draw.randrange(len(FILES))
    for name in FILES[last + 1 :]:
        del files[name]
    files[FILES[last]] = files[FILES[last]][: draw.randrange(len(files[FILES[last]]))]
    return FILES[last:]


def another_format(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    return _manifest(files, lambda listed: listed | {"format": draw.choice((0, 2, 99, -1, "1", None, [1], 1.5))})


def edited_without_the_digest(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    """A file is changed, and its size and SHA-256 in the manifest with it."""
    name = draw.choice(FILES[:-1])
    files[name] += b" "

    def edit(listed: dict[str, Any]) -> dict[str, Any]:
        entry = {"size": len(files[name]), "sha256": checkpoints._sha256(files[name])}
        return listed | {"files": listed["files"] | {name: entry}}

    return _manifest(files, edit)


def of_other_files(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    """The manifest lists a file less or one more, with a digest that is right for the list."""

    def edit(listed: dict[str, Any]) -> dict[str, Any]:
        entries = dict(listed["files"])
        one = entries.pop(draw.choice(sorted(entries)))
        if draw.random() < 0.5:
            entries[draw.choice(("../state.json", "extra.pkl", "/etc/passwd"))] = one
        return listed | {"files": entries, "digest": checkpoints._sha256(checkpoints._json(entries))}

    return _manifest(files, edit)


def formatted_anew(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]), indent=draw.randint(1, 4)).encode()
    return ("manifest.json",)


def other_json(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    strange = (
        b"[]",
        b"null",
        b"{}",
        b'{"files": [], "digest": ""}',
        b'{"files": {"a": NaN}, "digest": 1}',
        b"[" * 9999,
    )
    files["manifest.json"] = draw.choice(strange)
    return ("manifest.json",)


def pickled(draw: Draw, files: Contents, earlier: Mapping[str, bytes]) -> tuple[str, ...]:
    return _changed(draw, files, lambda data: pickle.dumps(data, protocol=draw.randrange(6)))


def _manifest(files: Contents, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> tuple[str, ...]:
    files["manifest.json"] = checkpoints._json(edit(json.loads(files["manifest.json"])))
    return ("manifest.json",)


KINDS: tuple[Kind, ...] = (
    *(flipped_bit, truncated, zeroed_page, swapped_pages, grown, empty, missing, under_a_temporary_name),
    *(swapped_within, of_the_earlier, another_checkpoint, half_written, another_format, edited_without_the_digest),
    *(of_other_files, formatted_anew, other_json, pickled),
)


class Pair:
    """Two checkpoints in a folder of their own, laid out anew each time.

    Args:
        folder: is emptied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw = torch.Generator().manual_seed(0)
        self._contents: dict[str, Contents] = {}
        for epoch in (1, 2):
            tensors = [{"weight": torch.randn(64, 64, generator=draw)} for _ in TENSORS]
            path = save_checkpoint(folder, Checkpoint(Progress(epoch, 0, 1.5, {}, IDENTITY), *tensors), keep=2)
            self._contents[path.name] = {name: (path / name).read_bytes() for name in FILES}
        self.earlier, self.later = (folder / name for name in self._contents)

    def objection(self, number: int, kinds: tuple[Kind, ...] = KINDS) -> str | None:
        """Damage it by that number; what went wrong then, None where nothing did."""
        draw, kind = random.Random(number), kinds[number % len(kinds)]
        contents = {name: dict(files) for name, files in self._contents.items()}
        named = kind(draw, contents[self.later.name], self._contents[self.earlier.name])
        self._lay_out(contents)
        read: list[bytes] = []

        def reading(data: bytes) -> Any:
            read.append(data)
            return whole(data)

        whole = checkpoints.load
        try:
            with patch.object(checkpoints, "load", reading):
                found, refused = newest_valid(self.folder, IDENTITY)
        except CheckpointError as error:
            return f"{kind.__name__}: the earlier one was refused too: {error}"
        if found is None or found.progress.epoch != 1 or len(refused) != 1:
            return f"{kind.__name__}: epoch {found and found.progress.epoch} was taken, {len(refused)} refused"
        if read != [self._contents[self.earlier.name][name] for name in TENSORS]:
            return f"{kind.__name__}: a tensor was read out of what is damaged"
        if "\n" in refused[0] or not any(str(self.later / name) in refused[0] for name in named):
            return f"{kind.__name__}: none of {named} is named in {refused[0]!r}"
        return None

    def _lay_out(self, contents: Mapping[str, Contents]) -> None:
        shutil.rmtree(self.folder)
        for name, files in contents.items():
            (self.folder / name).mkdir(parents=True)
            for file_name, data in files.items():
                # As os does it: a hundred thousand files are written by this line.
                descriptor = os.open(self.folder / name / file_name, os.O_WRONLY | os.O_CREAT)
                os.write(descriptor, data)
                os.close(descriptor)
