"""CIFAR from every layout: a tiny made-up copy gives the same tensors in each; damage is refused."""

import gzip
import io
import json
import os
import pickle
import pickletools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from metadistiller.data import cifar
from metadistiller.data._cifar_files import KINDS, Kind
from metadistiller.data.cifar import Options, build, recognises
from metadistiller.errors import ConfigError, DataError

KIND = {kind.name: kind for kind in KINDS}
NAMES = tuple(KIND)
PER_CLASS = 5  # training images; one for each of the five batches of CIFAR-10
Part = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def made_up(name: str) -> tuple[Part, Part]:
    """Noise (N, 3072) and labels (N,), training and test."""
    draw = np.random.default_rng(0)
    classes = KIND[name].num_classes

    def part(per_class: int) -> Part:
        labels = draw.permutation(np.repeat(np.arange(classes), per_class))
        return draw.integers(0, 256, (len(labels), 3072), dtype=np.uint8), labels

    return part(PER_CLASS), part(1)


def files(name: str, part: str) -> dict[str, Part]:
    """The images of each official file, without its suffix."""
    train, test = made_up(name)
    if name == "cifar100":
        return {"train": train} if part == "train" else {"test": test}
    if part == "test":
        return {"test_batch": test}
    pairs = zip(np.split(train[0], 5), np.split(train[1], 5), strict=True)
    return {f"data_batch_{number}": pair for number, pair in enumerate(pairs, start=1)}


def write_python(folder: Path, name: str) -> None:
    key = "fine_labels" if name == "cifar100" else "labels"
    for part in ("train", "test"):
        for file, (pixels, labels) in files(name, part).items():
            batch = {b"data": pixels, key.encode(): labels.tolist(), b"filenames": [b"x.png"] * len(labels)}
            (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / KIND[name].python.names).write_bytes(b"")


def write_binary(folder: Path, name: str) -> None:
    for part in ("train", "test"):
        for file, (pixels, labels) in files(name, part).items():
            columns = [labels[:, None].astype(np.uint8), pixels]
            if name == "cifar100":
                columns.insert(0, np.full((len(labels), 1), 19, np.uint8))
            (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
    (folder / KIND[name].binary.names).write_text("\n".join(KIND[name].classes))


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, images: list[bytes | None], labels: list[int], **changes: Any) -> None:
    given = {"image_column": "img", "label_column": "fine_label", "names": KIND["cifar100"].classes} | changes
    cells = [{"bytes": image, "path": None} for image in images]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {given["image_column"]: pyarrow.array(cells, struct), given["label_column"]: pyarrow.array(labels)}
    )
    if given["names"]:
        features = {given["label_column"]: {"names": given["names"], "_type": "ClassLabel"}}
        entry = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": entry})
    pyarrow.parquet.write_table(table, path)


def write_parquet(folder: Path, name: str, **changes: Any) -> None:
    train, test = made_up(name)
    middle = len(train[1]) // 2
    shards = {
        "train-00000-of-00002": (train[0][:middle], train[1][:middle]),
        "train-00001-of-00002": (train[0][middle:], train[1][middle:]),
        "test-00000-of-00001": test,
    }
    column = {"label_column": KIND[name].parquet_label, "names": KIND[name].classes} | changes
    for file, (pixels, labels) in shards.items():
        write_table(folder / f"{file}.parquet", [png(image) for image in pixels], labels.tolist(), **column)


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(folder, folder.name)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "python": write_python,
    "binary": write_binary,
    "parquet": write_parquet,
}
LAYOUTS = ("python", "binary", "parquet", "python archive", "binary archive")


def write(place: Path, name: str, layout: str) -> Path:
    """A copy inside `place`; its archive or folder."""
    version, _, packed = layout.partition(" ")
    official = {"python": KIND[name].python.folder, "binary": KIND[name].binary.folder}
    folder = place / official.get(version, name)
    folder.mkdir(parents=True)
    WRITERS[version](folder, name)
    if not packed:
        return folder
    archive = place / getattr(KIND[name], version).archive
    pack(folder, archive)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return archive


def options(name: str, root: Path | None, **given: Any) -> Options:
    text = None if root is None else str(root)
    return Options(num_classes=KIND[name].num_classes, root=text, **given)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a current folder that hold nothing, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the network is unreachable")

    place = tmp_path / "nowhere"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv(cifar.ENVIRONMENT, raising=False)
    monkeypatch.setattr(cifar, "download_url", refuse)
    return place


# One copy, every layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_the_same_tensors(tmp_path: Path, name: str, layout: str) -> None:
    data = build(options(name, write(tmp_path, name, layout)))
    for part, (pixels, labels) in zip((data.train, data.test), made_up(name), strict=True):
        assert torch.equal(part.images, torch.from_numpy(pixels).view(-1, 3, 32, 32))
        assert torch.equal(part.labels, torch.from_numpy(labels))
    assert data.classes == KIND[name].classes
    assert data.name == name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_recognised_and_found_from_above(tmp_path: Path, name: str, layout: str) -> None:
    path = write(tmp_path / "outer" / "inner", name, layout)
    assert recognises(path) == name
    assert recognises(path.parent) == name
    assert str(path) in build(options(name, tmp_path / "outer")).source


def test_what_is_no_copy_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a script")
    (tmp_path / "test").write_text("another")
    assert recognises(tmp_path) is None
    assert recognises(tmp_path / "train") is None
    assert recognises(tmp_path / "missing") is None


def test_a_million_photographs_are_not_gone_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (tmp_path / "train" / f"class {number}").mkdir(parents=True)
        (tmp_path / "train" / f"class {number}" / "photograph.jpg").touch()
    looked_at = []
    whole = cifar.copy_at

    def copy_at(path: Path, kind: Kind) -> cifar.Copy | None:
        looked_at.append(path)
        return whole(path, kind)

    monkeypatch.setattr(cifar, "copy_at", copy_at)
    assert recognises(tmp_path) is None
    assert {path.relative_to(tmp_path).as_posix() for path in looked_at} == {".", "train"}
    looked_at.clear()
    assert recognises(tmp_path / "train") is None
    assert not [path for path in looked_at if path.suffix]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_beside_many_folders_is_found(tmp_path: Path, layout: str) -> None:
    for number in range(300):
        (tmp_path / "all" / f"other data {number}").mkdir(parents=True)
    write(tmp_path / "all", "cifar100", layout)
    assert recognises(tmp_path / "all") == "cifar100"
    # From further above by its official name only.
    assert recognises(tmp_path) == (None if layout == "parquet" else "cifar100")


def test_two_kinds_in_one_place_are_ambiguous(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path, name, "binary")
    assert recognises(tmp_path) is None
    assert [build(options(name, tmp_path)).name for name in NAMES] == list(NAMES)


@pytest.mark.parametrize(
    ("changes", "recognised"),
    [
        ({"image_column": "image"}, "cifar10"),
        ({"names": None}, "cifar10"),
        ({"image_column": "image", "names": None}, None),
        ({"names": tuple("0123456789")}, None),
    ],
)
def test_ten_classes_of_something_else_are_not_cifar10(
    tmp_path: Path, changes: dict[str, Any], recognised: str | None
) -> None:
    write_parquet(tmp_path, "cifar10", **changes)
    assert recognises(tmp_path) == recognised


def test_python_3_spelling_of_a_batch_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar100", "python")
    for part in ("train", "test"):
        (pixels, labels) = files("cifar100", part)[part]
        batch = {"data": np.asfortranarray(pixels), "fine_labels": labels.tolist()}
        (folder / part).write_bytes(pickle.dumps(batch, protocol=4))
    assert torch.equal(
        build(options("cifar100", folder)).train.images.view(-1, 3072),
        torch.from_numpy(made_up("cifar100")[0][0]),
    )


def test_few_shot_and_the_statistics_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "cifar10", "binary")
    full, few = build(options("cifar10", path)), build(options("cifar10", path, train_per_class=2))
    assert torch.bincount(few.train.labels).tolist() == [2] * 10
    assert (few.mean, few.std) == (full.mean, full.std)
    assert torch.equal(few.test.images, full.test.images)


@pytest.mark.parametrize(("field", "value"), [("num_classes", 20), ("train_per_class", 0)])
def test_values_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} is {value}"):
        Options(**{field: value})


# Where it is looked for


@pytest.mark.parametrize("place", ["named", "nowhere/data", "nowhere", "nowhere/.cache/metadistiller"])
def test_the_usual_places_are_searched(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(cifar.ENVIRONMENT, str(tmp_path / "named"))
    write(tmp_path / place, "cifar10", "binary")
    assert len(build(options("cifar10", None)).train) == 10 * PER_CLASS


@pytest.mark.parametrize("download", [True, False])
def test_without_data_the_error_says_where_and_what(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    monkeypatch.setenv(cifar.ENVIRONMENT, str(nowhere / "named"))
    with pytest.raises(DataError, match="no copy of CIFAR-100") as caught:
        build(options("cifar100", None, download=download))
    said = str(caught.value)
    for place in (nowhere / "named", nowhere / "data", nowhere, nowhere / ".cache" / "metadistiller"):
        assert str(place) in said
    for layout in ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz", "train-*.parquet"):
        assert layout in said
    assert ("network is unreachable" if download else "data.download is false") in said


def test_an_explicit_root_is_never_replaced_by_a_download(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(nowhere / "data", "cifar10", "binary")
    calls: list[object] = []
    monkeypatch.setattr(cifar, "download_url", lambda *args: calls.append(args))
    with pytest.raises(DataError, match=r"elsewhere \(does not exist\); put one of these there"):
        build(options("cifar10", nowhere / "elsewhere"))
    assert not calls


def test_a_download_is_kept_whole_or_not_at_all(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(nowhere.parent / "server", "cifar10", "python archive")

    def breaks_off(url: str, root: str, filename: str, md5: str) -> None:
        Path(root, filename).write_bytes(source.read_bytes()[:1000])
        raise RuntimeError("File not found or corrupted.")

    def succeeds(url: str, root: str, filename: str, md5: str) -> None:
        assert url.endswith(filename)
        assert len(md5) == 32
        Path(root, filename).write_bytes(source.read_bytes())

    cache = nowhere / ".cache" / "metadistiller"
    monkeypatch.setattr(cifar, "download_url", breaks_off)
    with pytest.raises(DataError, match="File not found or corrupted"):
        build(options("cifar10", None))
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(cifar, "download_url", succeeds)
    assert len(build(options("cifar10", None)).train) == 10 * PER_CLASS
    assert [path.name for path in cache.iterdir()] == [source.name]


# Malice


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


# Damage


def cut(path: Path, keep: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.6, 0.999])
@pytest.mark.parametrize("layout", ["python archive", "binary archive"])
def test_a_truncated_archive_is_refused(tmp_path: Path, layout: str, keep: float) -> None:
    archive = write(tmp_path, "cifar10", layout)
    cut(archive, keep)
    with pytest.raises(DataError, match=r"damaged|lacks") as caught:
        build(options("cifar10", archive))
    assert str(archive) in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("python", "train"),
        ("python", "test"),
        ("binary", "train.bin"),
        ("binary", "test.bin"),
        ("parquet", "train-00000-of-00002.parquet"),
        ("parquet", "train-00001-of-00002.parquet"),
        ("parquet", "test-00000-of-00001.parquet"),
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.6543])
def test_a_truncated_file_is_refused(tmp_path: Path, layout: str, file: str, keep: float) -> None:
    folder = write(tmp_path, "cifar100", layout)
    cut(folder / file, keep)
    with pytest.raises(DataError, match=r"fetch it again") as caught:
        build(options("cifar100", folder))
    assert str(folder) in str(caught.value)
    assert file in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "file"),
    [("python", "data_batch_3"), ("binary", "data_batch_3.bin"), ("parquet", "train-00001-of-00002.parquet")],
)
def test_a_missing_file_is_named(tmp_path: Path, layout: str, file: str) -> None:
    folder = write(tmp_path, "cifar10", layout)
    (folder / file).unlink()
    with pytest.raises(DataError, match=rf"lacks {file}|is one of 2 parts, but 1 are in"):
        build(options("cifar10", folder))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "holds a list"),
        ({b"fine_labels": [1]}, "no array 'data'"),
        ({b"data": np.zeros((1, 3072), np.float32), b"fine_labels": [1]}, "no array 'data'"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"fine_labels": [1]}, "no array 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}, "no list 'fine_labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": ["1"]}, "no list 'fine_labels'"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1]}, "2 images and 1 labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [100]}, "labels from 100 to 100"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [-1]}, "labels from -1"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [2**70]}, "labels"),
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path: Path, batch: Any, message: str) -> None:
    folder = write(tmp_path, "cifar100", "python")
    (folder / "train").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=message):
        build(options("cifar100", folder))


def test_a_label_out_of_range_in_a_record_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar10", "binary")
    (folder / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"test_batch\.bin has labels from 10 to 10, but CIFAR-10 has 0 to 9"):
        build(options("cifar10", folder))


GOOD = png(np.zeros(3072, np.uint8))


def large() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (33, 32)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("images", "labels", "changes", "message"),
    [
        ([GOOD], [1], {"label_column": "coarse_label"}, "has no column 'fine_label', only img, coarse_label"),
        ([GOOD], [1], {"image_column": "picture"}, "has no column 'img' or 'image'"),
        ([GOOD], [1.5], {}, "a column 'fine_label' of double"),
        ([GOOD], [100], {}, "labels from 100 to 100"),
        ([GOOD, GOOD], [1, None], {}, "rows without a 'fine_label'"),
        ([None], [1], {}, "a row without an image"),
        ([large()], [1], {}, "an image of 33x32 pixels"),
        ([GOOD[: len(GOOD) // 2]], [1], {}, "a PNG that does not decode"),
        ([b"GIF89a"], [1], {}, "a PNG that does not decode"),
        ([], [], {}, "has no rows|a column 'fine_label' of null"),
    ],
)
@pytest.mark.parametrize("part", ["train-00000-of-00002", "test-00000-of-00001"])
def test_a_table_of_another_form_is_refused(
    tmp_path: Path, part: str, images: Any, labels: Any, changes: dict[str, Any], message: str
) -> None:
    write_parquet(tmp_path, "cifar100")
    write_table(tmp_path / f"{part}.parquet", images, labels, **changes)
    with pytest.raises(DataError, match=message) as caught:
        build(options("cifar100", tmp_path))
    assert str(tmp_path / part) in str(caught.value)
