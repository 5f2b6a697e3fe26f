"""What is said of an image file is what evaluation says of the same image."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import metadistiller
from metadistiller import assemble
from metadistiller.cli import main
from metadistiller.config import Choice, Config
from metadistiller.data import Preparation, evaluation_images
from metadistiller.errors import CheckpointError, ConfigError

IMAGENET = {"size": 32, "resize": 40}


def trained(config: Config, data: Choice, place: Path) -> Path:
    return assemble.train(replace(config, data=data, epochs=1), place, quiet=True).folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs of all shapes in the form of both 'folder' and 'imagenet'."""
    drawn = torch.Generator().manual_seed(1)
    for part, count in (("train", 10), ("val", 3)):
        for name in ("n01440764", "n02102040"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                shape = (50 + 9 * number, 90 - 8 * number, 3)
                pixels = torch.randint(256, shape, dtype=torch.uint8, generator=drawn)
                suffix = ("png", "jpg")[number % 2]
                Image.fromarray(pixels.numpy()).save(tmp_path / "data" / part / name / f"{number}.{suffix}")
    return tmp_path / "data"


@pytest.mark.parametrize(("name", "options"), [("folder", {"size": 32}), ("imagenet", IMAGENET)])
def test_a_file_gets_what_evaluation_s_pixels_get(
    name: str, options: dict[str, object], root: Path, tiny_config: Config, tmp_path: Path
) -> None:
    data = Choice(name=name, options={"root": str(root), **options})
    run = trained(tiny_config, data, tmp_path / "run")
    found = assemble.restore(run)
    pixels, _ = next(found.dataset.test.batches(100))
    with torch.no_grad():
        exits = [x.softmax(1) for x in found.method.eval().exits(evaluation_images(pixels, found.dataset))]
    final = exits[-1]
    said = metadistiller.predict(run, root / "val", threshold=0.5, top=2)
    shipped = metadistiller.predict(run / "model.safetensors", root / "val")
    # To rounding, which for products of so small matrices depends on where in memory they lie.
    probabilities = pytest.approx(final.max(1).values.tolist(), rel=1e-6)
    assert [answer.probability for answer in said.answers] == probabilities
    assert [answer.probability for answer in shipped.answers] == probabilities
    assert [answer.name for answer in said.answers] == [found.dataset.classes[i] for i in final.argmax(1).tolist()]
    assert [answer.name for answer in shipped.answers] == [answer.name for answer in said.answers]
    # Of two classes the first exit always has one of at least a half.
    assert {answer.exit for answer in said.answers} == {"exit 1"}
    certain = exits[0].max(1).values.tolist()
    assert [answer.exit_probability for answer in said.answers] == pytest.approx(certain, rel=1e-6)
    assert {answer.exit for answer in shipped.answers} == {"final"}
    assert {answer.exit for answer in metadistiller.predict(run, root / "val", threshold=1).answers} == {"final"}
    assert [Path(answer.path) for answer in said.answers] == sorted((root / "val").rglob("*.*"))


def test_a_bad_image_keeps_no_other_from_its_answer(
    root: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tiny_config, Choice(name="folder", options={"root": str(root), "size": 32}), tmp_path / "run")
    asked = tmp_path / "asked"
    shutil.copytree(root / "val", asked)
    bad = asked / "n01440764" / "bad.png"
    bad.write_bytes(b"no image")
    assert main(["predict", str(run), str(asked), "--json", "--top", "2"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 6
    assert set(rows[0]) == {"path", "class", "probability", "top", "exit", "exit_class", "exit_probability"}
    assert sum(entry["probability"] for entry in rows[0]["top"]) == pytest.approx(1)
    assert f"{bad} cannot be read" in err
    bad.unlink()
    assert main(["predict", str(run), str(asked / "*" / "*.png")]) == 0
    assert "would answer" in capsys.readouterr().out


def test_an_older_file_is_answered_in_folder_s_way_and_says_so(
    root: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tiny_config, Choice(name="folder", options={"root": str(root), "size": 32}), tmp_path / "run")
    with safe_open(run / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["network"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    expected = metadistiller.predict(run / "model.safetensors", root / "val")
    assert capsys.readouterr().err == ""
    assert header.pop("preparation")["fit"] is True
    save_file(tensors, tmp_path / "old.safetensors", metadata={"network": json.dumps(header)})
    assert metadistiller.predict(tmp_path / "old.safetensors", root / "val") == expected
    assert capsys.readouterr().err.count("as the data set 'folder' does") == 1


def test_a_preparation_survives_the_header() -> None:
    for one in (Preparation(crop=(32, 40)), Preparation(crop=(8, 8), resize=9, interpolation="bilinear")):
        assert Preparation.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    with pytest.raises(CheckpointError, match="preparation is damaged"):
        Preparation.from_dict({"crop": 3})
    with pytest.raises(CheckpointError, match="cannot be meant"):
        Preparation.from_dict({**one.as_dict(), "interpolation": "nearest"})


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threshold is 0"):
        metadistiller.predict("run", [tmp_path], threshold=0)
    with pytest.raises(ConfigError, match="there is no image there"):
        metadistiller.predict("run", [tmp_path])
