"""Data sets of the Hugging Face hub, from a stub of it: the same pixels as files, and every way to be missing."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
from datasets import ClassLabel, DatasetDict, Features, Value
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from metadistiller import recipe
from metadistiller.data import folder
from metadistiller.data.hf import Options, build, listing
from metadistiller.errors import ConfigError, DataError, UnknownName
from metadistiller.records import RunFolder
from metadistiller.settings import load_config, parse

from .noise import LABELS, PICTURES, SIZE, png

NAME = "owner/pets"


IMAGES = [png(image) for image in PICTURES]
PICTURE, NAMED = datasets.Image(), ClassLabel(names=["dog", "cat"])


def rows(
    images: list[Any] = IMAGES,
    labels: list[Any] = LABELS,
    *,
    image: str = "image",
    label: str = "label",
    features: tuple[Any, Any] = (PICTURE, Value("string")),
) -> datasets.Dataset:
    values = [{"bytes": each, "path": None} if isinstance(each, bytes) else each for each in images]
    kinds = Features({"number": Value("int64"), image: features[0], label: features[1]})
    return datasets.Dataset.from_dict(
        {"number": list(range(len(labels))), image: values, label: labels}, features=kinds
    )


def options(**given: Any) -> Options:
    return Options(**{"repository": NAME, "size": SIZE, "resize": SIZE, "workers": 1, **given})


Serve = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A hub that has what it is told, or raises it; gives what it was asked for."""

    def with_parts(found: Any, commit: Any = "c0ffee") -> list[tuple[Any, ...]]:
        asked: list[tuple[Any, ...]] = []

        def info(self: Any, name: str, *, revision: str | None, timeout: float) -> Any:
            if isinstance(commit, Exception):
                raise commit
            return huggingface_hub.DatasetInfo(
                id=name, sha=commit, private=False, downloads=0, likes=0, tags=[], disabled=False
            )

        def load(name: str, config: str | None, **more: Any) -> Any:
            asked.append((name, config, more))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return with_parts


# Laws


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_pixels_as_a_folder_of_classes(tmp_path: Path, serve: Serve, workers: int) -> None:
    for number, (encoded, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{number}.png").write_bytes(encoded)
    serve(DatasetDict(train=rows()))
    ours = build(options(workers=workers))
    theirs = folder.build(folder.Options(root=str(tmp_path), size=SIZE))
    assert ours.classes == theirs.classes == ("cat", "dog")
    for mine, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.pixels(torch.arange(len(other))), other.pixels(torch.arange(len(other))))


def test_every_row_once_and_in_order_whatever_holds_the_image(tmp_path: Path, serve: Serve) -> None:
    """Bytes, a file that was unpacked, or bytes in a plain column."""
    files = [tmp_path / f"{number}.png" for number in range(10)]
    for path, encoded in zip(files, IMAGES, strict=True):
        path.write_bytes(encoded)
    plain = datasets.Dataset.from_dict({"image": IMAGES, "label": LABELS}).cast_column("image", Value("binary"))
    kinds = {"bytes": rows(), "files": rows([{"bytes": None, "path": str(path)} for path in files]), "plain": plain}
    shown = {}
    for kind, part in kinds.items():
        serve(DatasetDict(train=rows(), validation=part))
        data = build(options())
        assert data.test.labels.tolist() == [0] * 5 + [1] * 5
        shown[kind] = data.test.pixels(torch.arange(10))
    assert torch.equal(shown["bytes"], shown["files"])
    assert torch.equal(shown["bytes"], shown["plain"])
    assert len(shown["bytes"].flatten(1).unique(dim=0)) == 10


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_the_first_held_out_part_is_taken(serve: Serve, held_out: str) -> None:
    later = ["val", "valid", "validation", "test", "more"]
    parts = {part: rows(IMAGES[:4], LABELS[3:7]) for part in later[later.index(held_out) :]}
    parts[held_out] = rows(IMAGES[3:7], LABELS[3:7])
    serve(DatasetDict(train=rows(), **parts))
    found = listing(options())
    assert found.test.paths == [f"hf:{NAME} {held_out} row {row}" for row in (1, 2, 3, 4)]
    assert found.source == f"hf:{NAME} at c0ffee (train and {held_out}); 10 + 4 images"


def test_declared_classes_keep_their_order(serve: Serve) -> None:
    numbers = rows(labels=[1] * 5 + [0] * 5, features=(PICTURE, NAMED))
    serve(DatasetDict(train=numbers))
    data = build(options())
    assert data.classes == ("dog", "cat")
    assert sorted(data.train.labels.tolist()) == [0] * 4 + [1] * 4


def test_columns_by_what_they_are_and_by_option(serve: Serve) -> None:
    """One column of images and one of named classes need no usual name."""
    kinds = (PICTURE, NAMED)
    serve(DatasetDict(train=rows(labels=[1] * 5 + [0] * 5, image="shot", label="kind", features=kinds)))
    assert build(options()).classes == ("dog", "cat")
    both = rows(labels=[1] * 5 + [0] * 5, features=kinds).add_column("kind", ["a", "b"] * 5)
    serve(DatasetDict(train=both))
    assert build(options(label_column="kind", image_column="image")).classes == ("a", "b")


def test_the_library_is_asked_for_what_was_said(serve: Serve, tmp_path: Path) -> None:
    asked = serve(DatasetDict(train=rows()))
    build(options(config="small", revision="v2", root=str(tmp_path)))
    assert asked == [(NAME, "small", {"revision": "v2", "cache_dir": str(tmp_path)})]


def test_what_the_library_itself_keeps_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stub: a folder of classes is put into the cache by the library, and read from there without a connection."""
    for number, (encoded, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "pets" / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / "train" / label / f"{number}.png").write_bytes(encoded)
    cache = str(tmp_path / "cache")
    datasets.load_dataset(str(tmp_path / "pets"), cache_dir=cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    data = build(options(repository="pets", root=cache))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert len(data.train.pixels(torch.arange(8)).flatten(1).unique(dim=0)) == 8
    with pytest.raises(DataError, match=r"hf:dogs: the hub cannot be reached .*has no copy"):
        build(options(repository="dogs", root=cache))


# On the command line


@pytest.mark.parametrize("name", ["hf:owner/pets", "hf:pets"])
def test_a_name_on_the_command_line(name: str, tmp_path: Path) -> None:
    words = ["--data", name, "--data.config", "small", "--data.size", "64", "--data.resize", "64"]
    config = parse(words, command="train").config
    assert config == parse([f"--data.name={name}", *words[2:]], command="train").config
    assert (config.data.name, config.data.options["config"], config.epochs) == (name, "small", recipe("hf").epochs)
    assert "repository" not in config.data.options
    run = RunFolder.create(tmp_path / "run", config.as_dict())
    assert load_config(RunFolder.open(run.path)) == config


@pytest.mark.parametrize("name", ["owner/pets:small", "a/b/c", "/pets", "owner/", "o w/n"])
def test_a_name_that_the_hub_cannot_have(name: str) -> None:
    with pytest.raises(ConfigError, match=r"take hf:NAME or hf:OWNER/NAME, .* --data\.config CONFIG"):
        parse(["--data", f"hf:{name}"], command="train")
    with pytest.raises(UnknownName, match="data set"):
        parse(["--data", "hf:"], command="train")


# What is refused


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'metadistiller\[hf\]'"):
        build(options())


def test_a_library_that_would_run_a_data_sets_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"datasets is 3\.6\.0.*code of its own.*pip install -U"):
        build(options())


def no(kind: type[Exception]) -> Exception:
    """As the hub says no, which takes a response; how it is made differs between its libraries."""
    refused = kind.__new__(kind)
    refused.args = ("404",)
    return refused


@pytest.mark.parametrize(
    ("commit", "given", "told"),
    [
        (no(RepositoryNotFoundError), {}, "the hub has no such data set, or it may not be read .*`hf auth login`"),
        (no(RevisionNotFoundError), {"revision": "v9"}, r"has no revision 'v9'; give another --data\.revision"),
        (ConnectionError("no route"), {}, r"cannot be reached \(ConnectionError: no route\) and .* has no copy; .*HF_"),
    ],
)
def test_the_hub_says_no_or_nothing(
    serve: Serve, commit: Exception, given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    asked = serve(DatasetDict(train=rows()), commit)
    with pytest.raises(DataError, match=told):
        build(options(root=str(tmp_path), **given))
    assert asked == []


def test_without_a_connection_the_cache_will_do(serve: Serve, tmp_path: Path) -> None:
    serve(DatasetDict(train=rows()), ConnectionError("no route"))
    (tmp_path / "owner___pets" / "default" / "0.0.0" / "c0ffee").mkdir(parents=True)
    assert "of the cache" in build(options(root=str(tmp_path))).source
    assert "of the cache" in build(options(root=str(tmp_path), revision="c0ffee")).source
    with pytest.raises(DataError, match=r"cannot be told to be revision 'v2'.*leave --data\.revision out"):
        build(options(root=str(tmp_path), revision="v2"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ValueError("Config name is missing. Pick: ['a', 'b']"),
            r"\['a', 'b'\]\); give one of them as --data\.c",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), "no longer supported.*is it a data set of images"),
    ],
)
def test_what_the_library_cannot_load(serve: Serve, error: Exception, told: str) -> None:
    serve(error)
    with pytest.raises(DataError, match=f"^hf:{NAME} cannot be loaded .*{told}"):
        build(options())


def test_a_folder_is_not_taken_for_the_data_set(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(DatasetDict(train=rows()))
    (tmp_path / NAME).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"has the same name.*--data {NAME}"):
        build(options())
    assert asked == []


@pytest.mark.parametrize(
    ("parts", "given", "told"),
    [
        ({"test": rows()}, {}, "has the parts test; one called train is needed"),
        ({"train": rows(label="kind")}, {}, f"hf:{NAME} train has no column of a usual name .*'kind'.*label_column"),
        ({"train": rows()}, {"label_column": "no"}, r"no column 'no', as data\.label_column says"),
        ({"train": rows()}, {"image_column": "number"}, r"int64 in its column 'number', not bytes of images"),
        ({"train": rows().remove_columns("image")}, {}, "no column of a usual name .*image_column"),
        ({"train": rows(labels=[None, *LABELS[1:]])}, {}, "train row 1 has no label"),
        ({"train": rows(labels=[0, 1] * 4 + [0, -1], features=(PICTURE, NAMED))}, {}, "row 10 has label -1"),
        ({"train": rows(), "test": rows(labels=["owl"] * 10)}, {}, "class 'owl', but the training set has not"),
        ({"train": rows(labels=["cat"] * 10)}, {}, "has 1 classes, 2 or more are needed"),
    ],
)
def test_data_sets_that_cannot_be_meant(serve: Serve, parts: dict[str, Any], given: dict[str, Any], told: str) -> None:
    serve(DatasetDict(parts))
    with pytest.raises(DataError, match=told):
        build(options(**given))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"x", "cannot identify"),
        (None, "neither bytes of an image nor a path"),
        ({"bytes": None, "path": "gone.png"}, "the path .*gone.png, and no such file is here"),
    ],
)
def test_a_bad_image_is_named_by_its_row(serve: Serve, bad: Any, told: str) -> None:
    serve(DatasetDict(train=rows([*IMAGES[:2], bad, *IMAGES[3:]]), test=rows()))
    with pytest.raises(DataError, match=f"hf:{NAME} train row 3 cannot be read .*{told}"):
        build(options()).train.pixels(torch.arange(10))
    with pytest.warns(UserWarning, match=f"hf:{NAME} train row 3 cannot be read"):
        assert len(build(options(on_bad_image="skip")).train) == 10
