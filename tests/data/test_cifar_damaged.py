"""A copy of CIFAR that is damaged or of another form is refused, and the error says which file."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metadistiller.data.cifar import build
from metadistiller.errors import DataError

from .cifar_copies import options, png, write, write_parquet, write_table


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
