"""CIFAR from every layout: a tiny made-up copy gives the same tensors in each, wherever it lies."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metadistiller.data import cifar
from metadistiller.data._cifar_files import Kind
from metadistiller.data.cifar import Options, build, recognises
from metadistiller.errors import ConfigError, DataError

from .cifar_copies import KIND, LAYOUTS, NAMES, PER_CLASS, files, made_up, options, write, write_parquet

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
