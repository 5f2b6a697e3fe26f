"""Parquet files of images: the same pixels as files, classes in any order of rows, and all that cannot be meant."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from metadistiller import recipe
from metadistiller.data import folder
from metadistiller.data.parquet import Options, build, recognises
from metadistiller.errors import ConfigError, DataError
from metadistiller.settings import parse

from .noise import LABELS, PICTURES, SIZE, png

IMAGES = [png(image) for image in PICTURES]


def write(
    path: Path,
    images: list[Any],
    labels: list[Any],
    *,
    names: list[str] | None = None,
    plain: bool = False,
    image: str = "image",
    label: str = "label",
) -> Path:
    values = images if plain else [{"bytes": each, "path": "x.png"} for each in images]
    kind = pyarrow.binary() if plain else pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({image: pyarrow.array(values, kind), label: labels})
    if names is not None:
        entry = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(entry)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def options(path: Path, **given: Any) -> Options:
    return Options(**{"root": str(path), "size": SIZE, "resize": SIZE, "workers": 1, **given})


# Laws


@pytest.mark.parametrize("plain", [False, True])
def test_the_same_pixels_as_a_folder_of_classes(tmp_path: Path, plain: bool) -> None:
    for number, (encoded, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / label / f"{number}.png").write_bytes(encoded)
    ours = build(options(write(tmp_path / "a.parquet", IMAGES, LABELS, plain=plain)))
    theirs = folder.build(folder.Options(root=str(tmp_path / "photos"), size=SIZE))
    assert ours.classes == theirs.classes == ("cat", "dog")
    for mine, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.pixels(torch.arange(len(other))), other.pixels(torch.arange(len(other))))


def test_the_order_of_the_rows_does_not_number_the_classes(tmp_path: Path) -> None:
    for number, part in enumerate((slice(None), slice(None, None, -1))):
        path = write(tmp_path / f"{number}.parquet", IMAGES[part], LABELS[part])
        assert build(options(path)).classes == ("cat", "dog")
        path = write(tmp_path / f"n{number}.parquet", IMAGES[part], ([0] * 5 + [1] * 5)[part], names=["owl", "ape"])
        assert build(options(path)).classes == ("owl", "ape")


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
@pytest.mark.parametrize("place", ["", "data"])
def test_parts_and_several_files(tmp_path: Path, held_out: str, place: str) -> None:
    root = tmp_path / place
    write(root / "train-00000-of-00002.parquet", IMAGES[:4], LABELS[:4])
    write(root / "train-00001-of-00002.parquet", IMAGES[4:8], LABELS[4:8])
    write(root / f"{held_out}-00000-of-00001.parquet", IMAGES[8:], LABELS[8:])
    config = parse(["--data", str(tmp_path)], command="train").config
    assert (config.data.name, config.epochs) == ("parquet", recipe("parquet").epochs)
    data = build(options(tmp_path))
    assert (len(data.train), data.test.labels.tolist()) == (8, [1, 1])
    assert data.train.paths[5] == f"{root}/train-00001-of-00002.parquet row 2"  # type: ignore[attr-defined]
    (root / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="is one of 2 parts, but 1 are in"):
        build(options(tmp_path))


def test_columns_by_option_and_what_belongs_to_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", IMAGES, LABELS, image="shot", label="kind")
    assert recognises(path) is None
    assert build(options(path, image_column="shot", label_column="kind")).classes == ("cat", "dog")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a", "b"], "label": [0, 1]}), tmp_path / "b.parquet")
    assert recognises(tmp_path / "b.parquet") is None
    with pytest.raises(DataError, match=r"not bytes of images; .* --data table"):
        build(options(tmp_path / "b.parquet"))


# What is refused


def test_a_place_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --data\.root or --data PATH"):
        build(Options())
    with pytest.raises(DataError, match=r"no train-\*\.parquet lie in it"):
        build(options(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert recognises(tmp_path / "a.parquet") is None
    with pytest.raises(DataError, match=r"a\.parquet is damaged"):
        build(options(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("labels", "names", "given", "told"),
    [
        (LABELS, None, {"label_column": "kind"}, r"no column 'kind', as data\.label_column says; .*'image', 'label'"),
        (LABELS, None, {"image_column": "kind"}, r"no column 'kind', as data\.image_column says"),
        ([*LABELS[:9], None], None, {}, "row 10 has no label"),
        ([0.5] * 10, None, {}, r"row 1 has the label 0\.5"),
        ([0] * 9 + [-1], ["a", "b"], {}, "row 10 has label -1, but the metadata names classes 0 to 1"),
        ([0, 1] * 5, ["a", "a"], {}, "names two classes alike"),
        (["cat"] * 10, None, {}, "has 1 classes, 2 or more are needed"),
    ],
)
def test_files_that_cannot_be_meant(
    tmp_path: Path, labels: list[Any], names: list[str] | None, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        build(options(write(tmp_path / "a.parquet", IMAGES, labels, names=names), **given))


@pytest.mark.parametrize("bad", [b"x", None])
def test_a_bad_image_is_named_by_its_row(tmp_path: Path, bad: bytes | None) -> None:
    write(tmp_path / "train-0.parquet", [*IMAGES[:2], bad, *IMAGES[3:]], LABELS)
    write(tmp_path / "test-0.parquet", IMAGES, LABELS)
    with pytest.raises(DataError, match=r"train-0\.parquet row 3 cannot be read"):
        build(options(tmp_path)).train.pixels(torch.arange(10))
    with pytest.warns(UserWarning, match=r"train-0\.parquet row 3 cannot be read"):
        assert len(build(options(tmp_path, on_bad_image="skip")).train) == 10


def test_no_room_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if memoryview(data).nbytes > 1000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(DataError, match=r"cannot be copied to .*No space left.*set TMPDIR"):
        build(options(write(tmp_path / "a.parquet", [bytes(5000)] * 10, LABELS)))
