"""What comes on top of what: words on files, later files on earlier ones, all on the recipe; and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from metadistiller.errors import UnknownName
from metadistiller.recipes import recipe
from metadistiller.settings import Settings, parse

from .reading import from_yaml, read


def test_words_on_top_of_yaml_on_top_of_the_recipe() -> None:
    text = "epochs: 7\noptim:\n  lr: 0.3\n"
    found = read("cifar100", "--config", text, "--epochs", "9")
    assert (found.epochs, found.optim.lr, found.batch_size) == (9, 0.3, 128)
    assert found.optim == replace(recipe("cifar100").optim, lr=0.3)
    assert from_yaml(text).epochs == 7
    assert from_yaml(text).batch_size == recipe("digits").batch_size


def test_yaml_may_name_a_member_and_its_options() -> None:
    found = from_yaml("method: {name: dsn, exit_weight: 0.5}\nmodel: {width: 24}")
    assert found.method.options["exit_weight"] == 0.5
    assert (found.model.name, found.model.options["width"]) == ("resnet10", 24)


def test_yaml_names_a_method_by_a_word() -> None:
    assert from_yaml("method: dsn") == read("--method", "dsn")


def test_yaml_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    text = "epochs: 7\nmethod: dsn\n"
    file.write_text(text, encoding="utf-8")
    assert read("--config", str(file)) == read(f"--config={file}") == from_yaml(text)
    file.write_text("", encoding="utf-8")
    assert read("--config", str(file)) == read()


def test_a_later_file_on_top_of_an_earlier() -> None:
    found = read("--config", "epochs: 7\nbatch_size: 32\n", "--config", "epochs: 8\n")
    assert (found.epochs, found.batch_size) == (8, 32)


@pytest.mark.parametrize("family", ["model", "optim"])
def test_a_later_file_keeps_what_it_does_not_say(family: str) -> None:
    first, second = {
        "model": ("model: {name: resnet18, stem: imagenet}\n", "model: {width: 8}\n"),
        "optim": ("optim: {lr: 0.3}\n", "optim: {gamma: 0.5}\n"),
    }[family]
    found = read("--config", first, "--config", second)
    whole = from_yaml(yaml.safe_dump({family: yaml.safe_load(first)[family] | yaml.safe_load(second)[family]}))
    assert found == whole


def test_a_word_beats_a_files_name() -> None:
    assert from_yaml("method: dsn", "--method", "plain").method.name == "plain"


def test_a_file_s_options_of_a_member_give_way_to_another_member() -> None:
    """`--config RUN/config.yaml --method plain`: what the file says of its own method and its teacher is not meant."""
    file = "method:\n  name: kd\n  alpha: 0.3\nteacher:\n  name: resnet10\n  run: null\n  width: 6\nepochs: 3"
    assert from_yaml(file).teacher is not None
    found = from_yaml(file, "--method", "plain")
    assert (found.method.name, found.teacher, found.epochs) == ("plain", None, 3)
    # A file that contradicts itself is not put right in silence: it is refused when the run is put together.
    assert from_yaml(file.replace("name: kd\n  alpha: 0.3", "name: plain")).teacher is not None
    # Of the same member it still holds.
    assert from_yaml(file, "--method", "kd").method.options["alpha"] == 0.3
    with pytest.raises(UnknownName, match="alpha"):
        from_yaml("method:\n  name: plain\n  alpha: 0.3")


def test_a_commands_own_options() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs")
        parser.add_argument("--quiet", action="store_true")

    found: Settings = parse(["--out", "a-b", "--epochs", "4"], command="metadistiller train", add_extras=add)
    assert dict(found.extras) == {"out": "a-b", "quiet": False}
    assert found.config == read("--epochs", "4")
    assert parse(["--quiet"], command="metadistiller train", add_extras=add).extras["quiet"] is True


def test_parsing_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "3")
    monkeypatch.setenv("METADISTILLER_TRAIN_EPOCHS", "3")
    assert read() == read("digits")
    assert read().epochs == recipe("digits").epochs
