"""Names are files: every family by its members, near misses, and what a name fixes."""

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from metadistiller.config import Config
from metadistiller.errors import ConfigError, MetaDistillerError, Paused, RunError, UnknownName, UsageError
from metadistiller.lookup import Member, find, modules, table
from metadistiller.recipes import recipe, recipes

FAMILIES = ("metadistiller.data", "metadistiller.methods", "metadistiller.nn.backbones")
MEMBERS = [pytest.param(family, name, id=name) for family in FAMILIES for name in table(family)]

# Every family


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_files_have_the_same_name(family: str) -> None:
    names = [name for module in modules(family) for name in module.NAMES]
    assert sorted(names) == sorted(table(family))
    assert names


@pytest.mark.parametrize("family", FAMILIES)
def test_private_files_are_no_members(family: str) -> None:
    assert all(not module.__name__.rpartition(".")[2].startswith("_") for module in modules(family))


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_a_member_is_found_by_its_name(family: str, name: str) -> None:
    member = find(family, "thing", name)
    assert member == table(family)[name]
    assert member.name == name
    assert callable(member.build)
    assert member.summary
    assert not member.summary.endswith(".")


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_a_member_has_defaults_for_all_that_its_name_leaves_open(family: str, name: str) -> None:
    member = table(family)[name]
    options = member.configure({})
    assert is_dataclass(options)
    assert {key: getattr(options, key) for key in member.preset} == dict(member.preset)
    for field in fields(options):
        with pytest.raises(FrozenInstanceError):
            setattr(options, field.name, None)


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_options_are_their_own_values(family: str, name: str) -> None:
    member = table(family)[name]
    options = member.configure({})
    again = {field.name: getattr(options, field.name) for field in fields(options)}
    assert member.configure(again) == options


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_option_is_documented(family: str, name: str) -> None:
    options = table(family)[name].options
    assert all(f"{field.name}" in (options.__doc__ or "") for field in fields(options))


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_an_option_that_is_not_there_is_refused(family: str, name: str) -> None:
    member = table(family)[name]
    with pytest.raises(UnknownName, match=f"unknown option of {name} 'colour'"):
        member.configure({"colour": 3})
    for field in fields(member.options):
        with pytest.raises(UnknownName, match=f"did you mean '{field.name}'"):
            member.configure({field.name + "x": 3})


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_a_misspelt_name_is_refused_with_a_known_one(family: str, name: str) -> None:
    for wrong in (name[1:], name[::-1][:1] + name, name[:2] + "zz" + name[2:], name.upper() + name):
        with pytest.raises(UnknownName, match="unknown thing") as caught:
            find(family, "thing", wrong)
        meant = re.search(r"did you mean '([\w/]+)'", str(caught.value))
        assert meant is None or meant[1] in table(family)
        assert meant is not None or wrong == name.upper() + name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_like_no_other_gets_the_list(family: str) -> None:
    with pytest.raises(UnknownName, match="known: ") as caught:
        find(family, "thing", "@@@@")
    assert caught.value.known == tuple(table(family))
    assert all(name in str(caught.value) for name in caught.value.known)


# What a name fixes


def test_options_that_contradict_the_name() -> None:
    member = find("metadistiller.nn.backbones", "network", "wrn16_2")
    with pytest.raises(ConfigError, match="'wrn16_2' says depth=16, but depth=22 was given; leave depth out"):
        member.configure({"depth": 22})
    assert member.configure({"depth": 16}).width == 2


def test_a_list_is_a_tuple() -> None:
    member = find("metadistiller.nn.backbones", "network", "resnet10")
    assert member.configure({"blocks": [1, 1, 1, 1]}).blocks == (1, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"blocks=\(1, 1, 1, 1\), but blocks=\(2, 1, 1, 1\)"):
        member.configure({"blocks": [2, 1, 1, 1]})


# A family of one's own

SHAPE = '''"""{summary}"""
import re
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    sides: int
    name: str = "x"

NAMES = {names}
PATTERN = re.compile(r"poly(?P<sides>\\d+)") if {endless} else None

def build(options):
    return options
'''


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two public files and a private one."""
    package = tmp_path / f"family_{tmp_path.name}".replace("-", "_")
    package.mkdir()
    (package / "__init__.py").write_text("")
    for file, names, endless, summary in (
        ("b_square", {"square": {"sides": 4}, "poly2": {"sides": 2}}, False, "A square.\n\nMore."),
        ("a_polygon", {"triangle": {"sides": 3}}, True, "A polygon"),
        ("_hidden", {"hidden": {"sides": 9}}, False, "Nothing."),
    ):
        text = SHAPE.format(summary=summary, names=names, endless=endless)
        (package / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


def test_a_new_file_is_a_new_member(shapes: str) -> None:
    found = table(shapes)
    assert list(found) == ["triangle", "square", "poly2"]
    assert found["square"].summary == "A square"
    assert found["square"].build(found["square"].configure({"name": "y"})).sides == 4


def test_a_pattern_makes_endless_names_and_a_listed_name_comes_first(shapes: str) -> None:
    seven = find(shapes, "shape", "poly7")
    assert seven.configure({}).sides == 7
    assert seven.name == "poly7"
    assert find(shapes, "shape", "poly2") == table(shapes)["poly2"]
    with pytest.raises(ConfigError, match="'poly7' says sides=7"):
        seven.configure({"sides": 8})
    with pytest.raises(UnknownName, match="unknown shape 'poly'"):
        find(shapes, "shape", "poly")


def test_members_compare_by_value(shapes: str) -> None:
    assert isinstance(find(shapes, "shape", "square"), Member)
    assert find(shapes, "shape", "square") == find(shapes, "shape", "square")


# Recipes


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_config_of_known_members(name: str) -> None:
    config = recipe(name)
    assert isinstance(config, Config)
    for family, choice in zip(
        ("metadistiller.data", "metadistiller.nn.backbones", "metadistiller.methods"),
        (config.data, config.model, config.method),
        strict=True,
    ):
        find(family, "thing", choice.name).configure(choice.options)
    assert "Command: metadistiller train" in (recipes()[name].__doc__ or "")


def test_an_unknown_recipe() -> None:
    with pytest.raises(UnknownName, match="unknown recipe 'cifar'; did you mean 'cifar10'"):
        recipe("cifar")


# What is raised


def tree(root: type[MetaDistillerError]) -> list[type[MetaDistillerError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


def test_the_exit_code_says_whose_mistake_it_was() -> None:
    assert {kind.exit_code for kind in tree(UsageError)} == {2}
    assert {kind.exit_code for kind in tree(RunError)} == {1}
    # A run that stops on purpose has failed in nothing.
    assert Paused.exit_code == 3
    assert set(tree(MetaDistillerError)) == {MetaDistillerError, Paused, *tree(UsageError), *tree(RunError)}
    assert all(issubclass(kind, ValueError) for kind in tree(UsageError))
    assert all(issubclass(kind, RuntimeError) for kind in tree(RunError))


def test_a_long_list_does_not_hide_the_answer() -> None:
    many = [f"name{number}" for number in range(13)]
    assert str(UnknownName("thing", "name3x", many)) == "unknown thing 'name3x'; did you mean 'name3'?"
    assert str(UnknownName("thing", "name3x", many[:12])).endswith(f"(known: {', '.join(many[:12])})")
    assert str(UnknownName("thing", "x", [])) == "unknown thing 'x'; known: none"
