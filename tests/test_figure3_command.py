"""`metadistiller figure3`: any run with a checkpoint, from the command to the file."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import metadistiller
from metadistiller import cli, reproduce
from metadistiller.config import Choice, Config
from metadistiller.errors import ConfigError, UnknownName
from metadistiller.records import RunFolder, read_json
from metadistiller.settings import parse

Captured = pytest.CaptureFixture[str]


def with_method(config: Config, method: str) -> Config:
    return replace(config, method=Choice(name=method), epochs=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("figure3") / "run"
    words = ["train", "--data.train_per_class", "4", "--model.width", "4", "--batch_size", "16", "--epochs", "2"]
    assert cli.main([*words, "--precision", "float32", "--threads", "1", "--quiet", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copied"))


def fails(words: list[str], capsys: Captured) -> tuple[int, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    return code, err


def test_a_run_gets_its_figure(copied: Path, capsys: Captured) -> None:
    assert cli.main(["figure3", str(copied)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(copied / "figure3.svg")
    means = read_json(copied / "soft_targets.json")["entropy"]
    for mean in (*means["targets"], *means["exits"], means["final"]):
        assert f"{mean:.3f}" in out
    text = (copied / "figure3.svg").read_text(encoding="utf-8")
    assert "metadistiller on resnet10, digits, after 2 epochs" in text
    assert text.count("test image ") == 3


def test_images_and_the_file_may_be_chosen(run: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "new" / "chosen.png"
    assert cli.main(["figure3", str(run), "--images", "42, 3", "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not (run / "figure3.svg").exists()


def test_as_json_the_values_are_printed_and_nothing_is_drawn(run: Path, capsys: Captured) -> None:
    before = sorted(run.rglob("*"))
    assert cli.main(["figure3", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    written = read_json(run / "soft_targets.json")
    names = {"method": "metadistiller", "network": "resnet10", "data": "digits", "seed": 0, "epochs": 2}
    assert found == names | written
    assert sorted(run.rglob("*")) == before
    assert cli.main(["figure3", str(run), "--json", "--images=796,0"]) == 0
    assert [image["index"] for image in json.loads(capsys.readouterr().out)["images"]] == [796, 0]


def test_an_unfinished_run_with_a_checkpoint_will_do(copied: Path, capsys: Captured) -> None:
    newest = sorted((copied / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    for name in ("result.json", "soft_targets.json", "evaluation.json", "report.html"):
        (copied / name).unlink()
    assert cli.main(["figure3", str(copied)]) == 0
    assert "after 1 of 2 epochs" in capsys.readouterr().out
    assert "after 1 epoch" in (copied / "figure3.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["plain", "dsn", "self_distillation"])
def test_a_method_shows_what_it_has(tiny_config: Config, tmp_path: Path, method: str) -> None:
    trained = metadistiller.train(with_method(tiny_config, method), tmp_path / "run", quiet=True)
    restored, values = metadistiller.figure3(trained.folder, [5], out=tmp_path / "figure.svg")
    assert restored.epochs_done == values["epochs"] == 1
    text = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    (image,) = values["images"]
    num_exits = 0 if method == "plain" else 3
    num_targets = 3 if method == "self_distillation" else 0
    assert [len(values["entropy"][kind]) for kind in ("exits", "targets")] == [num_exits, num_targets]
    assert [len(image[kind]) for kind in ("exits", "targets")] == [num_exits, num_targets]
    assert ("Stage 3" in text) == bool(num_exits)
    assert ("soft target" in text) == bool(num_targets)
    if num_targets:
        # Here every target is the final output's softmax.
        assert values["entropy"]["targets"] == pytest.approx([values["entropy"]["final"]] * 3)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--images", "3,797"], 2, "number of a test image is 797; take 0 to 796"),
        (["--images", "-1"], 2, "number of a test image is -1; take 0 to 796"),
        (["--images", "3,x"], 2, "--images is '3,x'; give places in the test set"),
        (["--images", ""], 2, "--images is ''"),
        (["--images", ",".join(["3"] * 21)], 2, "number of images is 21; a figure holds at most 20"),
        (["--out", "figure.jpg"], 2, "'figure.jpg'; take a name that ends in .svg, .png, .pdf"),
        (["--out", "figure.svg", "--json"], 2, "--json draws nothing, but --out is figure.svg"),
        (["--image", "3"], 2, "did you mean '--images'?"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    run: Path, words: list[str], code: int, told: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, err = fails(["figure3", str(run), *words], capsys)
    assert found == code
    assert told in err
    assert not list(tmp_path.iterdir())
    assert not (run / "figure3.svg").exists()


def test_a_folder_that_is_no_run_and_a_run_without_a_checkpoint(copied: Path, tmp_path: Path, capsys: Captured) -> None:
    code, err = fails(["figure3", str(tmp_path / "nowhere")], capsys)
    assert (code, "nowhere is no run folder" in err) == (1, True)
    # A file that cannot be drawn is refused before any run is looked at.
    code, err = fails(["figure3", str(tmp_path / "nowhere"), "--out", str(tmp_path / "figure.jpg")], capsys)
    assert (code, "take a name that ends in" in err) == (2, True)
    shutil.rmtree(copied / "checkpoints")
    code, err = fails(["figure3", str(copied)], capsys)
    assert (code, "has no checkpoint yet" in err) == (1, True)


# reproduce figure3


def plan(tmp_path: Path, rows: list[str], *, seeds: int = 1) -> list[reproduce.Run]:
    def read(recipe: str, words: Sequence[str]) -> Config:
        return parse([recipe, *words], command="metadistiller reproduce").config

    return reproduce.plan("figure3", read, rows=rows, seeds=seeds, words=["--device=cpu"], out=tmp_path)


def test_the_paper_s_figure_is_of_one_run(tmp_path: Path) -> None:
    (run,) = plan(tmp_path, [])
    assert (run.recipe, run.config.seed, run.config.method.name) == (
        "cifar100_resnet18_metadistiller",
        0,
        "metadistiller",
    )
    (run,) = plan(tmp_path, ["wrn16_1"])
    assert run.recipe == "cifar100_wrn16_1_metadistiller"
    for rows, seeds in ((["resnet18", "wrn16_1"], 1), ([], 2)):
        with pytest.raises(ConfigError, match="figure3 shows one run, these are 2"):
            plan(tmp_path, rows, seeds=seeds)
    with pytest.raises(UnknownName, match="unknown method of figure3 'dsn'"):
        reproduce.places("figure3", [], ["dsn"])


def test_its_figure_and_its_numbers_lie_beside_the_ledger(run: Path, tmp_path: Path) -> None:
    (planned,) = plan(tmp_path, [])
    done = replace(planned, folder=RunFolder(run))
    path = reproduce.figure3(done, tmp_path / "evidence")
    assert path == tmp_path / "evidence" / "figure3.svg"
    assert path.read_bytes().startswith(b"<?xml")
    assert read_json(tmp_path / "evidence" / "figure3.json") == metadistiller.figure3(run)[1]
