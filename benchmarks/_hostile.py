"""Files of somebody who means harm: pickles and settings that run programs, archives that write elsewhere.

Each attempt has a folder of its own and a canary in it: a file that is there afterwards if any of its programs has run.
"""

import contextlib
import io
import os
import pickle
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _faults import example, unsynced
from torchvision import models

from metadistiller.config import Choice
from metadistiller.data import cifar, parquet
from metadistiller.engine.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from metadistiller.engine.export import load_network
from metadistiller.errors import MetaDistillerError
from metadistiller.nn.initial import file_weights, published_weights
from metadistiller.records import RunFolder
from metadistiller.settings import parse

MOST_MIB = 256  # that the process may grow by while it refuses a bomb


@dataclass(frozen=True)
class Attempt:
    """Something hostile that is done to the package.

    Attributes:
        name: what it is.
        do: the call, in an empty folder with the place of the canary.
        refused: whether it must be refused, by an error of ours that names the file in one line; otherwise it may also
            be harmless.
    """

    name: str
    do: Callable[[Path, Path], object]
    refused: bool = True

    def objection(self, place: Path) -> str | None:
        """What went wrong; None where nothing did. Args: place: an empty folder."""
        root = place / "inside"
        root.mkdir()
        canary = root / "canary"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with unsynced():
                self.do(root, canary)
            outcome = "it was taken" if self.refused else None
        except MetaDistillerError as error:
            named = str(root) in str(error) and "\n" not in str(error)
            outcome = None if named or not self.refused else f"one line should name the file, but it says {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        if list(root.rglob("canary*")) or [path.name for path in place.iterdir()] != ["inside"]:
            outcome = "a program has run, or a file was written outside"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
        if grown > MOST_MIB:
            outcome = f"the process grew by {grown:.0f} MiB"
        return outcome and f"{self.name}: {outcome}"


def attempts() -> Iterator[Attempt]:
    """Those of this file."""
    yield from _pickles()
    yield from _settings()
    yield from _archives()


# -- pickles -----------------------------------------------------------------------------------------------------------

# What each calls, with the canary's place for its argument; all of them work in the plain unpickler.
GADGETS: dict[tuple[str, str], Callable[[str], tuple[Any, ...]]] = {
    ("os", "system"): lambda canary: (f"touch '{canary}'",),
    ("posix", "system"): lambda canary: (f"touch '{canary}'",),
    ("os", "mkdir"): lambda canary: (canary,),
    ("os", "mkfifo"): lambda canary: (canary,),
    ("os", "makedirs"): lambda canary: (canary,),
    ("posix", "symlink"): lambda canary: ("a", canary),
    ("os", "spawnlp"): lambda canary: (0, "touch", "touch", canary),
    ("subprocess", "call"): lambda canary: (["touch", canary],),
    ("subprocess", "run"): lambda canary: (["touch", canary],),
    ("subprocess", "check_output"): lambda canary: (["touch", canary],),
    ("subprocess", "getoutput"): lambda canary: (f"touch '{canary}'",),
    ("builtins", "eval"): lambda canary: (f"__import__('os').mkdir({canary!r})",),
    ("builtins", "exec"): lambda canary: (f"import os; os.mkdir({canary!r})",),
    ("__builtin__", "eval"): lambda canary: (f"__import__('os').mkdir({canary!r})",),
    ("shutil", "copyfile"): lambda canary: ("/dev/null", canary),
    ("shutil", "copytree"): lambda canary: (str(Path(canary).parent), canary),
    ("numpy", "save"): lambda canary: (canary, [1]),
    ("numpy", "savetxt"): lambda canary: (canary, [1]),
    ("numpy.testing._private.utils", "runstring"): lambda canary: (f"import os; os.mkdir({canary!r})", {}),
    ("pickle", "loads"): lambda canary: (_reduced("os", "mkdir", (canary,)),),
    ("_pickle", "loads"): lambda canary: (_reduced("os", "mkdir", (canary,)),),
    ("torch.utils._config_module", "os.mkdir"): lambda canary: (canary,),
}


def _body(value: Any) -> bytes:
    """The opcodes that push a value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _reduced(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + _body(args) + b"R."


def _stack_global(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    return b"\x80\x04" + _body(module) + _body(name) + b"\x93" + _body(args) + b"R."


def _instance(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    return b"\x80\x02(" + b"".join(map(_body, args)) + f"i{module}\n{name}\n.".encode()


def _object(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    return b"\x80\x02(c" + f"{module}\n{name}\n".encode() + b"".join(map(_body, args)) + b"o."


def _in_a_batch(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    """Among the entries of what looks like a batch of CIFAR."""
    return b"\x80\x02}U\x04dataN" + b"s" + b"U\x05extra" + _reduced(module, name, args)[2:-1] + b"s."


def _two_stages(module: str, name: str, args: tuple[Any, ...]) -> bytes:
    """getattr(import_module(MODULE), NAME)(...)"""
    imported = _reduced("importlib", "import_module", (module,))[2:-1]
    found = b"cbuiltins\ngetattr\n(" + imported + _body(name) + b"tR"
    return b"\x80\x02" + found + _body(args) + b"R."


FORMS: dict[str, Callable[[str, str, tuple[Any, ...]], bytes]] = {
    "REDUCE": _reduced,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "in a batch": _in_a_batch,
    "getattr": _two_stages,
}


def programs() -> Iterator[tuple[str, Callable[[Path], bytes]]]:
    """Each pickle that runs a program, by name."""
    for (module, name), args in GADGETS.items():
        for form, made in FORMS.items():
            if _is_looked_up(module, name, form):
                yield (
                    f"{module}.{name}, {form}",
                    lambda canary, made=made, module=module, name=name, args=args: made(
                        module, name, args(str(canary))
                    ),
                )


def _is_looked_up(module: str, name: str, form: str) -> bool:
    if "." in name:
        # Part by part, and so from one module to another, in protocol 4 only.
        return form == "STACK_GLOBAL"
    # Python 2's names are understood before protocol 3 only.
    return module != "__builtin__" or form not in ("STACK_GLOBAL", "getattr")


def _pickles() -> Iterator[Attempt]:
    for name, program in programs():
        for entrance, enter in ENTRANCES.items():
            yield Attempt(
                f"pickle ({name}) as {entrance}",
                lambda root, canary, program=program, enter=enter: enter(root, program(canary)),
            )
        yield Attempt(
            f"pickle ({name}) behind a harmless one",
            lambda root, canary, program=program: _cifar_folder(root, pickle.dumps([]) + program(canary)),
        )


def _cifar_folder(root: Path, data: bytes) -> None:
    place = root / "cifar-100-python"
    place.mkdir()
    for name in ("train", "test", "meta"):
        (place / name).write_bytes(data)
    cifar.build(cifar.Options(root=str(place)))


def _cifar_archive(root: Path, data: bytes) -> None:
    archive = root / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for name in ("train", "test", "meta"):
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    cifar.build(cifar.Options(root=str(archive)))


def _weights(suffix: str, *, packed: bool = False) -> Callable[[Path, bytes], None]:
    def enter(root: Path, data: bytes) -> None:
        path = root / f"weights{suffix}"
        path.write_bytes(_torch_archive(data) if packed else data)
        file_weights(path)

    return enter


def _torch_archive(data: bytes) -> bytes:
    """As torch.save packs a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _published(root: Path, data: bytes) -> None:
    """In the folder where torchvision keeps what it has downloaded, and looks no second time."""
    kept = root / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / Path(models.get_model_weights("resnet18").DEFAULT.url).name).write_bytes(data)
    with patch.dict(os.environ, TORCH_HOME=str(root)):
        published_weights(Choice(name="torchvision/resnet18"))


def _exported(root: Path, data: bytes) -> None:
    (root / "model.safetensors").write_bytes(data)
    load_network(root / "model.safetensors")


def _checkpoint(name: str) -> Callable[[Path, bytes], None]:
    def enter(root: Path, data: bytes) -> None:
        (save_checkpoint(root / "checkpoints", example(1), keep=1) / name).write_bytes(data)
        load_checkpoint(list_checkpoints(root / "checkpoints")[0])

    return enter


def _run_config(root: Path, data: bytes) -> None:
    (root / "config.yaml").write_bytes(data)
    RunFolder.open(root).read_config()


def _parquet(root: Path, data: bytes) -> None:
    (root / "train.parquet").write_bytes(data)
    parquet.build(parquet.Options(root=str(root / "train.parquet")))


ENTRANCES: dict[str, Callable[[Path, bytes], None]] = {
    "a folder of CIFAR": _cifar_folder,
    "an archive of CIFAR": _cifar_archive,
    "weights.pth": _weights(".pth"),
    "weights.pt, packed": _weights(".pt", packed=True),
    "weights.safetensors": _weights(".safetensors"),
    "weights.safetensors, packed": _weights(".safetensors", packed=True),
    "torchvision's weights": _published,
    "torchvision's weights, packed": lambda root, data: _published(root, _torch_archive(data)),
    "an exported network": _exported,
    "a checkpoint's weights": _checkpoint("method.safetensors"),
    "a checkpoint's state": _checkpoint("state.json"),
    "a checkpoint's manifest": _checkpoint("manifest.json"),
    "config.yaml": _run_config,
    "a parquet file": _parquet,
}


# -- settings ----------------------------------------------------------------------------------------------------------

_TAGS = (
    "!!python/object/apply:os.mkdir ['{canary}']",
    "!!python/object/apply:os.system [\"touch '{canary}'\"]",
    "!!python/object/apply:subprocess.check_output [[touch, '{canary}']]",
    "!!python/object/new:os.mkdir ['{canary}']",
    "!!python/object/apply:builtins.eval [\"__import__('os').mkdir('{canary}')\"]",
    "!!python/object/new:type {{args: [z, !!python/tuple [], {{extend: !!python/name:exec}}], listitems: x}}",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:metadistiller.records.RunFolder {{}}",
)


def _settings() -> Iterator[Attempt]:
    for tag in _TAGS:
        for key in ("", "epochs: ", "model: ", "data:\n  name: digits\n  train_per_class: "):

            def text(canary: Path, tag: str = tag, key: str = key) -> bytes:
                return (key + tag.format(canary=canary)).encode()

            yield Attempt(
                f"{key}{tag} in a run's config.yaml", lambda root, canary, text=text: _run_config(root, text(canary))
            )
            yield Attempt(f"{key}{tag} in --config", lambda root, canary, text=text: _settings_file(root, text(canary)))


def _settings_file(root: Path, data: bytes) -> None:
    (root / "run.yaml").write_bytes(data)
    parse(["--config", str(root / "run.yaml")], command="train")


# -- archives ----------------------------------------------------------------------------------------------------------

_RECORDS = b"".join(bytes((0, label)) + bytes(3072) for label in range(100))
_KINDS = {
    "file": tarfile.REGTYPE,
    "symlink": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}
_PLACES = (
    "../canary",
    "../../../canary",
    "{canary}",
    "cifar-100-binary/../../canary",
    "./../canary",
    "a/" * 150 + "canary",
)


def _archives() -> Iterator[Attempt]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for kind in _KINDS:
            for place in _PLACES:
                yield Attempt(
                    f"{kind} {place:.40} in an archive of form {form}",
                    lambda root, canary, form=form, kind=kind, place=place: _unpacked(
                        root, form, _KINDS[kind], place.format(canary=canary), str(canary)
                    ),
                    refused=False,
                )
            if kind != "file":
                yield Attempt(
                    f"{kind} in place of the images in an archive of form {form}",
                    lambda root, canary, form=form, kind=kind: _unpacked(
                        root, form, _KINDS[kind], "cifar-100-binary/train.bin", "/dev/zero", images=False
                    ),
                )
    for place in _PLACES:
        yield Attempt(
            f"{place:.40} in a zip",
            lambda root, canary, place=place: _zipped(root, place.format(canary=canary)),
        )


def _unpacked(root: Path, form: int, kind: bytes, name: str, target: str, *, images: bool = True) -> None:
    archive = root / "cifar-100-binary.tar.gz"
    with tarfile.open(archive, "w:gz", format=form, compresslevel=1) as packed:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "" if kind == tarfile.REGTYPE else target
        # The old form has no room for long names.
        with contextlib.suppress(ValueError):
            packed.addfile(member)
        for file in ("train.bin", "test.bin")[0 if images else 1 :]:
            member = tarfile.TarInfo(f"cifar-100-binary/{file}")
            member.size = len(_RECORDS)
            packed.addfile(member, io.BytesIO(_RECORDS))
    cifar.build(cifar.Options(root=str(archive)))
    if list(root.iterdir()) != [archive]:
        raise ValueError(f"something was unpacked: {sorted(root.rglob('*'))}")


def _zipped(root: Path, name: str) -> None:
    archive = root / "cifar-100-binary.tar.gz"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(name, _RECORDS)
    cifar.build(cifar.Options(root=str(archive)))
