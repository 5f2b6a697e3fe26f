"""The card says what lies beside it, and no name in it becomes anything but text."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml

import metadistiller
from metadistiller import exporting, report
from metadistiller.exporting import Exported
from metadistiller.records import RunFolder, read_json
from metadistiller.report import _card

FORMATS = ("safetensors", "torch", "onnx", "onnx-stages")


def text_of(done: Exported) -> str:
    return done.card.read_text(encoding="utf-8")


def shipped(**more: object) -> report.Shipped:
    values: dict[str, object] = {
        "path": Path("net.onnx"),
        "format": "onnx",
        "classes": ("a",),
        "preparation": {"crop": [32, 32], "resize": None, "interpolation": "bicubic"},
        "epochs_done": 2,
        "epochs": 2,
        "compared": 10,
        "gap": 0.0,
    }
    return report.Shipped(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMATS)
def test_the_hub_understands_the_head(name: str, exports: Mapping[str, Exported], run: Path) -> None:
    text = text_of(exports[name])
    card = huggingface_hub.ModelCard(text, ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "image-classification"
    assert data["metrics"] == ["accuracy"]
    assert {"image-classification", "metadistiller", "resnet10", "dsn", name} <= set(data["tags"])
    assert all(len(tag) <= 256 and "\n" not in tag for tag in data["tags"])
    [result] = card.data.eval_results
    assert (result.task_type, result.metric_type) == ("image-classification", "accuracy")
    assert result.metric_value == pytest.approx(read_json(RunFolder(run).result)["final"] / 100)
    assert yaml.safe_load(text.split("---\n")[1]) == data


@pytest.mark.parametrize("name", FORMATS)
def test_the_code_in_it_answers_as_predict_does(
    name: str,
    exports: Mapping[str, Exported],
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / exports[name].path.name).symlink_to(exports[name].path)
    (tmp_path / "image.jpg").write_bytes(image.read_bytes())  # a PNG all the same; Pillow looks inside
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"(?ms)^```python\n(.*?)^```$", text_of(exports[name]))
    exec(snippet, {})
    answer = metadistiller.predict(exports[name].path, image).answers[0]
    assert answer.name.replace("\n", "") in capsys.readouterr().out.replace("\n", "")


def test_the_code_prepares_as_evaluation_does(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets with a resize before the middle is cut out."""
    from PIL import ImageOps, Image  # noqa: I001  # what the code in the card imports

    how = metadistiller.data.Preparation(crop=(20, 24), resize=27, interpolation="bilinear")
    names = {"Image": Image, "ImageOps": ImageOps}
    (tmp_path / "image.jpg").write_bytes(image.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec("\n".join(_card._picture(shipped(preparation=how.as_dict()))), names)
    assert names["picture"].tobytes() == how.shown(Image.open(image).convert("RGB")).tobytes()


def test_names_are_text(exports: Mapping[str, Exported]) -> None:
    text = text_of(exports["onnx"])
    assert text.count("---\n") == 2, "a name has ended the head"
    # Outside code and the head nothing is left of them that Markdown or HTML would read.
    body = text.split("---\n", 2)[2].replace(_card.MARK, "")
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body, flags=re.DOTALL)
    assert "<" not in outside
    assert "*c*" not in outside
    assert "x: [1" not in outside
    assert "---\ufffdx: [1" in body


def test_a_file_s_name_stays_inside_its_fence(run: Path) -> None:
    text = _card.render(RunFolder(run), shipped(path=Path("a```\n# b.onnx")))
    assert "\n# b" not in text
    assert "````python\n" in text


def test_where_things_lie_is_nobody_s_business(exports: Mapping[str, Exported], run: Path) -> None:
    text = text_of(exports["safetensors"])
    assert str(run.parent) not in text
    assert "metadistiller train --data photos\n" in text
    assert _card.without_paths("metadistiller train --data.root=/home/me/x/ --out ~/y/z -n 3") == (
        "metadistiller train --data.root=x --out z -n 3"
    )


def test_data_sets_of_the_hub_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(run)
    config = folder.read_config()
    for name, expected in (("hf:ethz/food101", ["ethz/food101"]), ("cifar100", ["uoft-cs/cifar100"]), ("table", None)):
        monkeypatch.setattr(RunFolder, "read_config", lambda _, name=name: {**config, "data": {"name": name}})
        text = _card.render(folder, shipped())
        assert yaml.safe_load(text.split("---\n")[1]).get("datasets") == expected


def test_an_unfinished_run_has_no_result_to_be_listed_by(run: Path) -> None:
    text = _card.render(RunFolder(run), shipped(epochs=9))
    assert "model-index" not in text
    assert "2 of 9 epochs: the run was not finished" in text
    assert "No epoch of the run was evaluated" not in text


def test_8_bit_numbers_are_told_with_their_accuracy(exports: Mapping[str, Exported]) -> None:
    small = exports["onnx"].quantised
    assert small is not None
    assert f"`net.int8.onnx` is the same network with 8-bit whole numbers: {small.accuracy:.2f} %" in text_of(
        exports["onnx"]
    )
    assert "8-bit" not in text_of(exports["torch"])


def test_probabilities_are_called_calibrated_where_they_are(run: Path) -> None:
    as_trained = "are not calibrated"
    text = _card.render(RunFolder(run), shipped(format="onnx-stages"))
    assert as_trained in text
    text = _card.render(RunFolder(run), shipped(format="onnx-stages", calibrated=True))
    assert as_trained not in text
    assert "temperatures were fitted, and its thresholds chosen, on a part of the test images" in text


def test_somebody_s_own_page_stays(run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "README.md"
    theirs.write_bytes(b"my notes \xff")
    done = exporting.export(run, tmp_path / "net.safetensors")
    assert theirs.read_bytes() == b"my notes \xff"
    assert done.card == tmp_path / "net.safetensors.README.md"
    theirs.unlink()
    done = exporting.export(run, tmp_path / "net.safetensors")
    assert done.card == theirs
    theirs.write_text(theirs.read_text().replace("## Limits", "## Borders"))
    exporting.export(run, tmp_path / "net.safetensors")
    assert "## Limits" in theirs.read_text()


def test_the_same_gives_the_same(run: Path) -> None:
    one = shipped()
    assert _card.render(RunFolder(run), one) == _card.render(RunFolder(run), replace(one))
