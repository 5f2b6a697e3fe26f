"""A chain of graphs answers as the network with its exits does, and images leave it where the table says."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

import metadistiller
from metadistiller import assemble, exporting
from metadistiller.cli import main
from metadistiller.config import Choice, Config
from metadistiller.data import evaluation_images
from metadistiller.engine.export import open_network, with_policy
from metadistiller.engine.export.onnx_stages import TABLE
from metadistiller.errors import CheckpointError, ConfigError
from metadistiller.exporting import Exported
from metadistiller.outcomes import chosen
from metadistiller.outcomes.chosen import EarlyExit, HeldOut, Row, Target
from metadistiller.outcomes.policy import Policy, uniform


@pytest.fixture(scope="module")
def trained(run: Path) -> assemble.Restored:
    return assemble.restore(run)


@pytest.fixture
def folder(exports: Mapping[str, Exported], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports["onnx-stages"].path, tmp_path / "net"))


def outputs(trained: assemble.Restored, count: int) -> tuple[Tensor, list[Tensor]]:
    pixels = trained.dataset.test.pixels(torch.arange(count))
    with torch.no_grad():
        return pixels, trained.method.eval().exits(evaluation_images(pixels, trained.dataset))


@pytest.mark.parametrize("count", [1, 7])
def test_every_output_is_the_network_s(count: int, folder: Path, trained: assemble.Restored) -> None:
    pixels, expected = outputs(trained, count)
    found = open_network(folder).answers(pixels)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_no_stage_holds_the_weights_of_another(folder: Path, trained: assemble.Restored) -> None:
    student = trained.method.multi_exit()
    assert student is not None
    sizes = [
        sum(weight.ByteSize() for weight in onnx.load(folder / f"stage{k}.onnx").graph.initializer) for k in range(1, 5)
    ]
    whole = 4 * sum(weight.numel() for weight in student.parameters())
    assert sum(sizes) < 1.1 * whole
    assert all(0 < size < 0.7 * whole for size in sizes)


@pytest.mark.parametrize(
    "thresholds", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (None, 0.0, 0.5), (None, None, None), (0.6, 0.7, 0.8)]
)
def test_images_leave_where_the_table_says(
    thresholds: tuple[float | None, ...], folder: Path, trained: assemble.Restored
) -> None:
    policy = Policy(temperatures=(2.0, 0.5, 1.0, 0.25), thresholds=thresholds)
    with_policy(folder, policy)
    leaving = open_network(folder).leaving
    assert leaving is not None
    pixels, logits = outputs(trained, 10)
    shares, left = leaving(pixels, None)
    for row in range(len(pixels)):
        each = [(one[row] / t).softmax(0) for one, t in zip(logits, policy.temperatures, strict=True)]
        first = next((k for k, t in enumerate(thresholds) if t is not None and each[k].max() >= t), 3)
        assert left[row] == first
        torch.testing.assert_close(shares[row], each[first], rtol=0, atol=1e-5)


def test_predict_answers_early_and_by_another_threshold_if_asked(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run.parent / "photos" / "val"
    with_policy(folder, uniform(4, 0.0))
    found = metadistiller.predict(folder, images)
    assert found.early
    assert {answer.exit for answer in found.answers} == {"exit 1"}
    everyone = metadistiller.predict(folder, images, threshold=1)
    assert {answer.exit for answer in everyone.answers} == {"final"}
    plain = metadistiller.predict(run, images)
    assert [answer.name for answer in everyone.answers] == [answer.name for answer in plain.answers]
    assert main(["predict", str(folder), str(images), "--top", "2"]) == 0
    assert "by the first output that is certain enough" in capsys.readouterr().out


def test_what_a_run_was_calibrated_to_goes_along(
    run: Path, exports: Mapping[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = exports["onnx-stages"]

    def written(_: object, path: Path, *__: object, **___: object) -> object:
        shutil.copytree(done.path, path)
        return done.proof

    monkeypatch.setattr(exporting, "export_network", written)
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    policy = Policy(temperatures=(1.5, 1.0, 2.0, 1.0), thresholds=(0.6, None, 0.75))
    row = Row(name="", policy=None, accuracy=50, loss=None, interval=None, macs=1, saved=0, left=(1, 2, 3, 4))
    calibrated = EarlyExit(
        target=Target(max_loss=0.5),
        held_out=HeldOut(share=0.5, chosen_on=5, measured_on=5, told=""),
        policy=policy,
        measured=(row, row),
        proved={"images": 5, "same": 5},
    )
    chosen.write(calibrated, copied / "early_exit.json")
    card = exporting.export(copied, format="onnx-stages").card
    assert "are not calibrated" in done.card.read_text()
    assert "are not calibrated" not in card.read_text()
    table = json.loads((copied / "exported-stages" / TABLE).read_text())
    assert (table["temperatures"], table["thresholds"]) == ([1.5, 1.0, 2.0, 1.0], [0.6, None, 0.75])
    damaged = json.loads((copied / "early_exit.json").read_text()) | {"thresholds": [2, None, 0.75]}
    (copied / "early_exit.json").write_text(json.dumps(damaged))
    with pytest.raises(CheckpointError, match="threshold is 2"):
        exporting.export(copied, format="onnx-stages")


def test_a_run_without_exits_is_one_clear_error(tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, method=Choice(name="plain"), epochs=1)
    run = assemble.train(config, tmp_path / "run", quiet=True).folder
    with pytest.raises(ConfigError, match=r"has no early exits.*such as metadistiller or dsn$"):
        exporting.export(run, tmp_path / "net", format="onnx-stages")
    assert not (tmp_path / "net").exists()
    assert not list(tmp_path.glob(".unproved*"))


def test_where_a_folder_may_go(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for place in (tmp_path / "full", run, tmp_path / "full" / "a"):
        with pytest.raises(ConfigError, match="name a new folder"):
            exporting.export(run, place, format="onnx-stages")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stages": []}, "0 stages"),
        ({"stages": [{"file": "../stage1.onnx", "sha256": ""}] * 4}, "no file beside it"),
        ({"stages": [{"file": "stage1.onnx", "sha256": "0"}] * 4}, "not the file that"),
        ({"temperatures": [0, 1, 1, 1]}, "damaged"),
        ({"thresholds": [0.5, "x", 1]}, "damaged"),
        ({"thresholds": 3}, "damaged"),
        ({"classes": ["a", "b", "c"]}, "does not hold what its header says"),
        ({"mean": None}, "damaged header"),
    ],
)
def test_a_table_that_cannot_be_meant(change: dict[str, object], match: str, folder: Path) -> None:
    table = json.loads((folder / TABLE).read_text())
    (folder / TABLE).write_text(json.dumps(table | change))
    with pytest.raises(CheckpointError, match=match):
        metadistiller.predict(folder, [__file__])


def test_stages_of_two_exports_are_told_apart(folder: Path) -> None:
    shutil.copy(folder / "stage2.onnx", folder / "stage3.onnx")
    with pytest.raises(CheckpointError, match="is not the file"):
        metadistiller.predict(folder, [__file__])


def test_the_card_lies_inside(exports: Mapping[str, Exported]) -> None:
    done = exports["onnx-stages"]
    assert done.card == done.path / "README.md"
    assert {path.name for path in done.path.iterdir()} == {
        *(f"stage{k}.onnx" for k in range(1, 5)),
        "README.md",
        TABLE,
    }
