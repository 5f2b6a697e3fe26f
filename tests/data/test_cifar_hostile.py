"""A copy of CIFAR that somebody made to do harm: nothing of it runs, and nothing leaves its archive."""

import gzip
import io
import os
import pickle
import pickletools
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from metadistiller.data.cifar import build
from metadistiller.errors import DataError

from .cifar_copies import options, pack, write


class Runs:
    """Its pickle runs a program."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_that_runs_a_program_is_refused(tmp_path: Path, protocol: int, packed: bool) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path, "cifar100", "python")
    (path / "train").write_bytes(pickle.dumps({b"data": [Runs(canary)]}, protocol=protocol))
    if packed:
        pack(path, tmp_path / "cifar-100-python.tar.gz")
        path = tmp_path / "cifar-100-python.tar.gz"
    with pytest.raises(DataError, match=r"train asks for (posix|nt)\.system") as caught:
        build(options("cifar100", path))
    assert str(path) in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "cbuiltins\neval\n(S'1'\ntR.",
        "cnumpy\nload\n(S'x'\ntR.",
        "cnumpy._core.multiarray\n_reconstruct.__globals__\n.",
        "cnumpy\nndarray\n(I9999999999999\ntR.",
        "cnumpy._core.multiarray\n_reconstruct\n(I1\n(I9999999999999\ntS'b'\ntR.",
        "c_codecs\nencode\n(Vx\nVzlib\ntR.",
        "I1\n.",
    ],
)
def test_nothing_but_arrays_can_be_built(tmp_path: Path, text: str) -> None:
    pickletools.dis(text.encode(), out=io.StringIO())
    folder = write(tmp_path, "cifar100", "python")
    (folder / "train").write_bytes(text.encode())
    with pytest.raises(DataError, match="train"):
        build(options("cifar100", folder))


def test_members_elsewhere_are_never_written_or_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", "cifar100", "binary")
    archive = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder / "train.bin", "../cifar-100-binary/train.bin")
        packed.add(folder / "train.bin", f"{tmp_path}/escaped")
        link = tarfile.TarInfo("cifar-100-binary/train.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder / "train.bin")
        packed.addfile(link)
        packed.add(folder / "test.bin", "cifar-100-binary/test.bin")
    with pytest.raises(DataError, match=r"lacks train\.bin"):
        build(options("cifar100", archive))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-100-binary.tar.gz", "made"]


def test_a_member_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-100-binary.tar.gz"
    member = tarfile.TarInfo("cifar-100-binary/train.bin")
    member.size = 2**40
    archive.write_bytes(gzip.compress(member.tobuf()))
    with pytest.raises(DataError, match=r"train\.bin claims 1,099,511,627,776 bytes"):
        build(options("cifar100", archive))
