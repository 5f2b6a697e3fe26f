"""Whatever a network is exported as, it answers as the trained one, from the file alone; or nothing is exported."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import metadistiller
from metadistiller import assemble, exporting, prediction
from metadistiller.cli import main
from metadistiller.engine import export as engine_export
from metadistiller.engine.export import Format, Opened, export_network, find_format, formats, open_network
from metadistiller.engine.export import _header as headers
from metadistiller.engine.export._proof import TOLERANCE, chosen
from metadistiller.errors import ConfigError, ExportError, UnknownName
from metadistiller.exporting import Exported
from metadistiller.methods import Method

# A folder of stages has laws of its own: test_stages.py.
FORMATS = sorted(name for name, format in formats().items() if format.suffix)


@pytest.fixture(scope="module")
def trained(run: Path) -> assemble.Restored:
    return assemble.restore(run)


def test_the_fixture_has_every_format(exports: Mapping[str, Exported], capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(exports) == sorted(formats())
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in formats())


@pytest.mark.parametrize("name", FORMATS)
def test_every_number_of_images_is_answered_as_by_the_trained_network(
    name: str, exports: Mapping[str, Exported], trained: assemble.Restored
) -> None:
    done, dataset = exports[name], trained.dataset
    assert done.proof.count == len(dataset.test) == 10
    assert done.proof.accuracy == 100 * (trained_answers(trained) == dataset.test.labels).float().mean().item()
    opened = open_network(done.path)
    for count in (1, 2, 7):
        pixels = dataset.test.pixels(torch.arange(count))
        with torch.no_grad():
            expected = trained.method.eval().exits(metadistiller.data.evaluation_images(pixels, dataset))[-1]
        if find_format(name).exact:
            assert torch.equal(opened.answers(pixels)[-1], expected)
        else:
            torch.testing.assert_close(opened.answers(pixels)[-1], expected, rtol=0, atol=1e-4)


def trained_answers(trained: assemble.Restored) -> Tensor:
    pixels = trained.dataset.test.pixels(torch.arange(len(trained.dataset.test)))
    with torch.no_grad():
        images = metadistiller.data.evaluation_images(pixels, trained.dataset)
        return trained.method.eval().exits(images)[-1].argmax(1)


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_alone_answers_as_the_run_does(
    name: str, exports: Mapping[str, Exported], run: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = metadistiller.predict(run, image, top=2).answers[0]

    def absent(*_: object) -> None:
        raise AssertionError("the file is not alone")

    monkeypatch.setattr(prediction, "restore", absent)
    if name == "onnx":
        monkeypatch.setattr(headers, "build_network", absent)
    said = metadistiller.predict(exports[name].path, image, top=2).answers[0]
    assert [each for each, _ in said.top] == [each for each, _ in expected.top]
    assert [share for _, share in said.top] == pytest.approx([share for _, share in expected.top], abs=1e-6)
    assert said.exit == "final"


def test_the_header_is_the_same_in_every_format(exports: Mapping[str, Exported]) -> None:
    found = {name: dict(open_network(exports[name].path).header) for name in FORMATS}
    takes = [found[name].pop("input") for name in ("onnx", "torch")]
    assert takes[0] == takes[1]
    assert takes[0]["type"] == "uint8"
    assert found["onnx"] == found["torch"] == found["safetensors"]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_in_a_file_says_where_it_was_made(name: str, exports: Mapping[str, Exported], run: Path) -> None:
    data = exports[name].path.read_bytes()
    for place in (str(run.parent), str(Path(metadistiller.__file__).parent), sys.prefix):
        assert place.encode() not in data


def test_pixels_of_another_kind_are_refused_not_misread(exports: Mapping[str, Exported]) -> None:
    session = onnxruntime.InferenceSession(exports["onnx"].path)
    with pytest.raises(Exception, match="uint8"):
        session.run(None, {"images": np.zeros((1, 3, 32, 32), np.float32)})


# What is refused


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_answers_otherwise_is_refused(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = formats()
    whole = known[name]

    def tampered(method: Method, path: Path, header: Mapping[str, object]) -> None:
        bias = method.deployable().fc.bias
        before = bias.detach().clone()
        with torch.no_grad():
            bias[0] += 1e-3
            whole.write(method, path, header)
            bias.copy_(before)

    monkeypatch.setattr(engine_export, "formats", lambda: {**known, name: replace(whole, write=tampered)})
    out = tmp_path / f"net{whole.suffix}"
    out.write_text("an earlier export")
    with pytest.raises(ExportError, match=r"differ .* nothing was exported"):
        exporting.export(run, out, format=name)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "an earlier export"


def answering(change: Callable[[Tensor], Tensor], trained: assemble.Restored) -> Format:
    """A format whose file answers as the trained network does, but for `change` of its logits."""

    @torch.no_grad()
    def answers(pixels: Tensor) -> list[Tensor]:
        images = metadistiller.data.evaluation_images(pixels, trained.dataset)
        return [change(trained.method.exits(images)[-1].clone())]

    def open(path: Path) -> Opened:
        return Opened({}, answers)

    return Format(name="fake", suffix=".fake", write=lambda _, path, __: path.touch(), open=open, shipped=open)


def one_nan(logits: Tensor) -> Tensor:
    logits[0, 1] = torch.nan
    return logits


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (lambda logits: logits, True),
        (lambda logits: logits + 0.9 * TOLERANCE, True),
        (lambda logits: logits + 1.1 * TOLERANCE * logits.abs().amax().clamp(min=1), False),
        (one_nan, False),
    ],
)
def test_what_the_proof_takes(
    change: Callable[[Tensor], Tensor], taken: bool, trained: assemble.Restored, tmp_path: Path
) -> None:
    format, more = answering(change, trained), {"config": trained.config, "dataset": trained.dataset}
    if taken:
        assert export_network(trained.method, tmp_path / "a.fake", format, **more).gap <= TOLERANCE
    else:
        with pytest.raises(ExportError, match="differ"):
            export_network(trained.method, tmp_path / "a.fake", format, **more)


def test_another_class_is_another_answer_however_near(trained: assemble.Restored, tmp_path: Path) -> None:
    """Two logits that are nearly the same: what the file says is within the tolerance, and of another class."""
    near = answering(lambda logits: logits.flip(1), trained)
    whole = trained.method.exits

    def tied(images: Tensor) -> list[Tensor]:
        return [torch.tensor([[1.0, 1.0 + TOLERANCE / 2]]).expand(len(images), 2)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained.method, "exits", tied)
        with pytest.raises(ExportError, match="1 of 1 images get another class"):
            export_network(trained.method, tmp_path / "a.fake", near, config=trained.config, dataset=trained.dataset)
    assert trained.method.exits == whole


def test_images_are_chosen_from_the_whole_test_set(trained: assemble.Restored) -> None:
    """It lies class after class, and the first half would be of one class."""
    assert chosen(trained.dataset.test, 4).labels.tolist() == [0, 0, 1, 1]
    assert len(chosen(trained.dataset.test, 1000)) == 10


def test_a_network_that_cannot_be_written_down_is_one_clear_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.UserError(torch._dynamo.exc.UserErrorType.DYNAMIC_CONTROL_FLOW, "it\nbranches")

    monkeypatch.setattr(torch.export, "export", refuses)
    with pytest.raises(ExportError, match=r"resnet10 cannot be written as 'torch' .*it branches.*nothing was exported"):
        exporting.export(run, tmp_path / "net.pt2", format="torch")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_meant(
    run: Path, exports: Mapping[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        exporting.export(run, format="onxx")
    with pytest.raises(ConfigError, match="quantisation is of --format onnx"):
        exporting.export(run, format="torch", int8=True)
    with pytest.raises(ConfigError, match=r"end its name in \.onnx"):
        exporting.export(run, tmp_path / "net.bin", format="onnx")
    with pytest.raises(ConfigError, match=r"end its name in \.safetensors"):
        exporting.export(run, tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match="is a folder"):
        exporting.export(run, tmp_path, format="torch")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'metadistiller\[onnx\]'"):
        exporting.export(run, tmp_path / "net.onnx", format="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime: pip install 'metadistiller\[onnx\]'"):
        metadistiller.predict(exports["onnx"].path, [__file__])


# 8-bit numbers


def test_the_8_bit_graph_has_8_bit_weights_and_says_what_that_did(exports: Mapping[str, Exported], image: Path) -> None:
    small = exports["onnx"].quantised
    assert small is not None
    assert small.path.name == "net.int8.onnx"
    graph = onnx.load(small.path).graph
    convolutions = sum(node.op_type in ("Conv", "Gemm") for node in graph.node)
    kinds = {each.name: each.data_type for each in graph.initializer}
    read = [
        kinds.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in kinds
    ]
    assert read.count(onnx.TensorProto.INT8) >= convolutions > 5
    said = open_network(small.path).header["quantisation"]
    assert said == {
        "type": "int8",
        "calibration_images": 16,
        "test_images": 10,
        "accuracy": small.accuracy,
        "float_accuracy": exports["onnx"].proof.accuracy,
    }
    assert metadistiller.predict(small.path, image).answers[0].exit == "final"


def test_ranges_come_from_training_images(
    exports: Mapping[str, Exported], trained: assemble.Restored, tmp_path: Path
) -> None:
    """A test set of another brightness must leave the file as it was."""
    darker = replace(trained.dataset, test=trained.dataset.test.take(torch.arange(2)))
    other = engine_export.quantise_network(exports["onnx"].path, tmp_path / "a.onnx", dataset=darker)
    small = exports["onnx"].quantised
    assert small is not None
    assert other.count == 2
    weights = [
        {each.name: each.SerializeToString() for each in onnx.load(path).graph.initializer}
        for path in (small.path, other.path)
    ]
    assert weights[0] == weights[1]


def test_the_command_says_what_was_proved_and_nothing_else(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "net.onnx"), "--int8"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("10 test images get the same class from the file as from the trained network")
    assert lines[1].startswith("8-bit numbers put ")
    assert lines[2:] == [
        str(tmp_path / "net.onnx"),
        str(tmp_path / "net.int8.onnx"),
        f"{tmp_path / 'README.md'} says what it is",
    ]
    assert json.loads(onnx.load(tmp_path / "net.onnx").metadata_props[0].value)["size"] == [32, 32]
