"""From words to a Config: a recipe is where one starts, and every spelling names the same run."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metadistiller.config import Choice, Config
from metadistiller.errors import ConfigError
from metadistiller.lookup import table
from metadistiller.recipes import recipe, recipes
from metadistiller.settings import FAMILIES, ROLES

from .reading import from_yaml, read

DATA = tuple(table("metadistiller.data"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with two images each, and a name that YAML takes for a number."""
    for label in ("cat", "dog"):
        (tmp_path / "2024" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "2024" / label / f"{number}.png")
    return tmp_path / "2024"


# Recipes are where one starts


def given(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options}


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_alone_is_the_recipe(name: str) -> None:
    found, meant = read(name), recipe(name)
    for field in fields(Config):
        if field.name not in ROLES or getattr(meant, field.name) is None:
            assert getattr(found, field.name) == getattr(meant, field.name)
        else:
            assert given(getattr(meant, field.name)).items() <= given(getattr(found, field.name)).items()


def test_no_words_are_the_digits() -> None:
    assert read() == read("digits")
    assert read().data.name == "digits"


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_brings_its_own_recipe(name: str) -> None:
    assert read("--data", name) == read(name)


def test_a_recipe_that_is_named_comes_before_the_data_sets_own() -> None:
    found = read("digits", "--data", "cifar100")
    assert found.data.name == "cifar100"
    assert found.epochs == recipe("digits").epochs
    assert found.epochs != recipe("cifar100").epochs


def test_every_option_of_a_member_is_written_out() -> None:
    for family, (package, _) in FAMILIES.items():
        for name, member in table(package).items():
            options = getattr(read(f"--{family}", name), family).options
            open_ = {field.name for field in fields(member.options)} - set(member.preset)
            assert set(options) == open_


def test_a_recipes_options_do_not_reach_another_member() -> None:
    assert read("digits").model.options["width"] == 16
    assert read("digits", "--model", "resnet18").model.options["width"] == 64
    assert read("digits", "--method", "dsn").method.options == {"exit_weight": 1.0, "inner_width": None}


def test_a_recipes_options_reach_a_variant_of_its_method() -> None:
    """Whose name fixes one of the same options: a comparison of the two would otherwise differ in more than that."""
    for name in ("folder", "imagenet"):
        ours, theirs = (
            read(name, "--method", method).method.options for method in ("residual_metadistiller", "metadistiller")
        )
        assert ours == theirs
        assert recipe(name).method.options.items() <= ours.items()


# Spellings


@pytest.mark.parametrize(
    "words",
    [
        ("--data", "cifar100"),
        ("--data=cifar100",),
        ("--data.name", "cifar100"),
        ("--data.name=cifar100",),
        ("--config", "data: cifar100\n"),
        ("--config", "data:\n  name: cifar100\n"),
        ("--data", "cifar10", "--data", "cifar100"),
    ],
)
def test_the_ways_to_name_a_data_set(words: tuple[str, ...]) -> None:
    assert read(*words) == read("cifar100")


@pytest.mark.parametrize(("family", "name"), [("model", "wrn16_1"), ("model", "wrn22_3"), ("method", "plain")])
def test_the_ways_to_name_a_network_or_method(family: str, name: str) -> None:
    first = read(f"--{family}", name)
    assert getattr(first, family).name == name
    for words in (
        [f"--{family}={name}"],
        [f"--{family}.name", name],
        [f"--{family}.name={name}"],
        ["--config", f"{family}: {name}\n"],
        ["--config", f"{family}:\n  name: {name}\n"],
    ):
        assert read(*words) == first


def test_hyphens_are_underscores() -> None:
    assert read("--batch-size", "32") == read("--batch_size", "32") == read("--batch-size=32")
    assert read("--batch-size", "32").batch_size == 32
    assert read("--optim.weight-decay=0.25").optim.weight_decay == 0.25
    assert read("--method.generator-width", "64").method.options["generator_width"] == 64


def test_hyphens_in_values_stay() -> None:
    assert read("cifar100", "--data.root=/a-b/c-d").data.options["root"] == "/a-b/c-d"
    assert read("cifar100", "--data.root", "a-b").data.options["root"] == "a-b"


def test_a_path_finds_its_source(photos: Path) -> None:
    by_path = read("--data", str(photos))
    assert by_path.data.name == "folder"
    assert by_path.data.options["root"] == str(photos)
    assert by_path == read(f"--data={photos}")
    assert by_path == read("--data", "folder", "--data.root", str(photos))
    assert by_path == from_yaml(f"data: {photos}")
    assert by_path.epochs == recipe("folder").epochs


def test_a_relative_path_that_looks_like_a_number(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert read("--data", "2024").data.options["root"] == "2024"
    assert from_yaml("data: '2024'").data.options["root"] == "2024"


def test_options_of_a_source_found_by_its_path(photos: Path) -> None:
    assert read("--data", str(photos), "--data.size", "16").data.options["size"] == 16


def test_a_path_with_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing that a data set is made of lies there"):
        read("--data", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("0.001", 0.001), ("1.0e-3", 0.001), ("1", 1.0), ("1e2", 100.0)]
)
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    # YAML 1.1 takes 1e-3 for a word.
    assert read("--optim.lr", text).optim.lr == value
    assert from_yaml(f"optim: {{lr: {text}}}").optim.lr == value
