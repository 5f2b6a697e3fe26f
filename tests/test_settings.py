"""From words and YAML to a Config: the same run by every spelling, the round trip over every member, and refusals."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from metadistiller.config import Augmentation, Choice, Config, Optim
from metadistiller.errors import CheckpointError, ConfigError, UnknownName
from metadistiller.lookup import table
from metadistiller.recipes import recipe, recipes
from metadistiller.records import RunFolder
from metadistiller.settings import FAMILIES, ROLES, Settings, load_config, parse

METHODS = tuple(table("metadistiller.methods"))
NETWORKS = (*table("metadistiller.nn.backbones"), "wrn22_3")
DATA = tuple(table("metadistiller.data"))


def read(*words: str) -> Config:
    return parse(words, command="metadistiller train").config


def from_yaml(text: str, *words: str) -> Config:
    return read("--config", text + "\n", *words)


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


# What comes on top of what


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


def test_a_commands_own_options() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs")
        parser.add_argument("--quiet", action="store_true")

    found: Settings = parse(["--out", "a-b", "--epochs", "4"], command="metadistiller train", add_extras=add)
    assert dict(found.extras) == {"out": "a-b", "quiet": False}
    assert found.config == read("--epochs", "4")
    assert parse(["--quiet"], command="metadistiller train", add_extras=add).extras["quiet"] is True


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("0.001", 0.001), ("1.0e-3", 0.001), ("1", 1.0), ("1e2", 100.0)]
)
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    # YAML 1.1 takes 1e-3 for a word.
    assert read("--optim.lr", text).optim.lr == value
    assert from_yaml(f"optim: {{lr: {text}}}").optim.lr == value


# Back and forth


def round_trip(config: Config) -> Config:
    return from_yaml(yaml.safe_dump(config.as_dict(), sort_keys=False).rstrip("\n"))


EVERYTHING = (
    "--optim.milestones=[0.5, 7.0]",
    "--optim.clip_norm=2.5",
    "--optim.nesterov=true",
    "--optim.adam_betas=[0.5, 0.75]",
    "--optim.adam_eps=1e-12",
    "--optim.schedule=constant",
    "--label_smoothing=0.1",
    "--optim.backbone_lr_factor=0.25",
    '--freeze=["layer1","stem"]',
    "--pretrained=true",
    "--augment.policy=randaugment",
    "--augment.random_erasing=0.25",
    "--augment.mixup=0.2",
    "--augment.cutmix=1.5",
    "--class_weights=effective",
    "--heldout_share=0.1",
    "--sampling=balanced",
    f"--seed={2**63 - 1}",
    "--device=cuda:1",
    "--precision=bfloat16",
    "--memory_format=contiguous",
    "--batch_statistics=synchronised",
    "--threads=3",
    "--ensemble=probabilities",
    "--checkpoint_every_steps=10",
    "--method.generator_width=64",
    "--method.generator_norm=batch",
    "--method.generator_warmup_epochs=1",
    "--method.heldout=all",
    "--method.heldout_batch_size=7",
    "--method.lookahead=own",
    "--method.derivative=finite_differences",
    "--method.meta_precision=float32",
    "--data.train_per_class=5",
    "--model.stem=imagenet",
)

CONFIGS = [
    *(pytest.param((name,), id=name) for name in recipes()),
    *(pytest.param(("--method", name), id=name) for name in METHODS),
    *(pytest.param(("--model", name), id=name) for name in NETWORKS),
    *(pytest.param(("cifar100", "--method", name, "--model", "wrn16_1"), id=f"cifar100-{name}") for name in METHODS),
    pytest.param(EVERYTHING, id="everything"),
]


@pytest.mark.parametrize("words", CONFIGS)
def test_yaml_gives_the_same_config_back(words: tuple[str, ...]) -> None:
    config = read(*words)
    assert round_trip(config) == config


def test_the_everything_case_changes_what_it_names() -> None:
    changed, usual = read(*EVERYTHING).as_dict(), read().as_dict()
    for word in EVERYTHING:
        family, _, key = word[2:].partition("=")[0].partition(".")
        assert changed[family] != usual[family]
        assert not key or changed[family][key] != usual[family][key]


@pytest.mark.parametrize("words", CONFIGS[:8])
def test_a_run_folder_gives_its_config_back(words: tuple[str, ...], tmp_path: Path) -> None:
    config = read(*words)
    folder = RunFolder.create(tmp_path / "run", config.as_dict())
    assert load_config(RunFolder.open(folder.path)) == config


def test_a_damaged_run_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", read().as_dict())
    folder.config.write_text("a: [", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml cannot be read"):
        load_config(folder)
    folder.config.write_text("- a", encoding="utf-8")
    with pytest.raises(CheckpointError, match="holds no settings"):
        load_config(folder)


def test_parsing_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "3")
    monkeypatch.setenv("METADISTILLER_TRAIN_EPOCHS", "3")
    assert read() == read("digits")
    assert read().epochs == recipe("digits").epochs


# What is not there


@pytest.mark.parametrize(
    ("words", "wrong", "meant"),
    [
        (["digitz"], "digitz", "digits"),
        (["--data", "cifra100"], "cifra100", "cifar100"),
        (["--model", "resnet81"], "resnet81", "resnet18"),
        (["--method", "dns"], "dns", "dsn"),
        (["--config", "method: metadistiler\n"], "metadistiler", "metadistiller"),
        (["--config", "model: {name: wrn16-1}\n"], "wrn16-1", "wrn16_1"),
        (["--epocs", "3"], "--epocs", "--epochs"),
        (["--batchsize=3"], "--batchsize", "--batch_size"),
        (["--method.alpa=0.3"], "--method.alpa", "--method.alpha"),
        (["--optim.learning_rate", "3"], "--optim.learning_rate", None),
        (["--method", "dsn", "--method.alpha", "0.3"], "--method.alpha", None),
        (["--model", "wrn16_1", "--model.depth", "22"], "--model.depth", None),
        (["--model", "resnet18", "--model.blocks", "[1,1,1,1]"], "--model.blocks", None),
        (["--config", "epocs: 3\n"], "epocs", "epochs"),
        (["--config", "optim:\n  lrr: 3\n"], "optim.lrr", "optim.lr"),
        (["--config", "method:\n  name: dsn\n  exit_wait: 3\n"], "method.exit_wait", "method.exit_weight"),
        (["--config", "data:\n  nmae: digits\n"], "data.nmae", "data.name"),
        (["--config", "model: {name: wrn16_1, depth: 22}\n"], "model.depth", None),
        (["--config", "model: {width: 24}\n", "--model", "wrn16_1"], "model.width", None),
    ],
)
def test_unknown_names(words: list[str], wrong: str, meant: str | None) -> None:
    with pytest.raises(UnknownName, match=rf"^unknown [\w ]+ '{wrong}'") as caught:
        read(*words)
    assert meant is None or f"did you mean '{meant}'?" in str(caught.value)


# What cannot be meant

PER_FIELD = [
    ("epochs", ["0", "-1", "1.5", "three", "true"]),
    ("batch_size", ["1", "0", "2.5"]),
    ("label_smoothing", ["1", "-0.1", "much"]),
    ("pretrained", ["perhaps"]),
    ("optim.backbone_lr_factor", ["0", "-1", "nan"]),
    ("class_weights", ["balanced"]),
    ("heldout_share", ["-0.1", "1", "half"]),
    ("sampling", ["inverse"]),
    ("augment.policy", ["rand"]),
    ("augment.random_erasing", ["-0.1", "1.1", "nan"]),
    ("augment.mixup", ["-1", "nan", "inf"]),
    ("augment.cutmix", ["-1", "much"]),
    ("seed", ["-1", "9223372036854775808", "1.5"]),
    ("precision", ["float16", "32"]),
    ("memory_format", ["nhwc"]),
    ("batch_statistics", ["global"]),
    ("threads", ["0", "many"]),
    ("evaluate_every", ["0"]),
    ("eval_batch_size", ["0"]),
    ("ensemble", ["mean"]),
    ("checkpoint_every_steps", ["0"]),
    ("keep_checkpoints", ["0"]),
    ("optim.lr", ["0", "-1", "fast", "nan", "inf"]),
    ("optim.momentum", ["1", "-0.1"]),
    ("optim.nesterov", ["perhaps"]),
    ("optim.weight_decay", ["-1", "nan"]),
    ("optim.clip_norm", ["0", "-1"]),
    ("optim.schedule", ["linear"]),
    ("optim.milestones", ["[0.7, 0.4]", "[0]", "0.5", "[a]"]),
    ("optim.gamma", ["0", "1.1"]),
    ("optim.warmup_epochs", ["-1"]),
    ("optim.adam_betas", ["[0.9]", "[0.9, 1]", "0.9"]),
    ("optim.adam_eps", ["0"]),
    ("method.alpha", ["-0.1", "1.1", "half", "nan"]),
    ("method.temperature", ["0", "inf"]),
    ("method.targets", ["label", "none"]),
    ("method.meta_every_epochs", ["0"]),
    ("method.meta_every_steps", ["0"]),
    ("method.generator_lr", ["0"]),
    ("method.generator_width", ["0", "wide", "2.5"]),
    ("method.generator_norm", ["layer"]),
    ("method.generator_warmup_epochs", ["-1", "half"]),
    ("method.heldout", ["some"]),
    ("method.heldout_batch_size", ["0"]),
    ("method.lookahead", ["halves"]),
    ("method.derivative", ["reverse"]),
    ("method.meta_precision", ["bfloat16"]),
    ("method.inner_width", ["0"]),
    ("model.width", ["0", "2.5", "wide"]),
    ("model.stem", ["tiny"]),
    ("data.root", ["somewhere"]),
    ("data.train_per_class", ["0", "many"]),
    ("data.split_seed", ["first"]),
]


def bare(value: str) -> str:
    """A value without what differs between a tuple, a list and a number of the same meaning."""
    return value.strip("[]").split(",")[0].removesuffix(".0")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in PER_FIELD for value in values])
def test_values_out_of_range_or_of_another_type(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"--{name}={value}")
    message = str(caught.value)
    assert name in message
    assert bare(value).lower() in message.lower()


def test_every_field_has_a_case_above() -> None:
    checked = {name for name, _ in PER_FIELD}
    # Any text may be a file's name or a module's: those are found wrong where they are used.
    free = {"weights", "freeze"}
    names = {field.name for field in fields(Config)} - free - {"optim", "augment", "device", "teacher", *FAMILIES}
    names |= {f"optim.{field.name}" for field in fields(Optim)}
    names |= {f"augment.{field.name}" for field in fields(Augmentation)}
    for family in FAMILIES:
        names |= {f"{family}.{key}" for key in getattr(read(), family).options}
    assert checked == names


@pytest.mark.parametrize("name", ["epochs", "seed", "optim.lr", "optim.milestones", "method.alpha", "model.width"])
def test_null_where_there_must_be_a_value(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read(f"--{name}=null")
    family, _, key = name.partition(".")
    with pytest.raises(ConfigError, match=name):
        from_yaml(f"{family}: {{{key}: null}}" if key else f"{name}: null")


@pytest.mark.parametrize(
    "text", ["optim: 3", "optim: null", "model: 3", "model: null", "method: true", "data: [digits]"]
)
def test_a_group_that_is_no_group(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition(":")[0]):
        from_yaml(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such file"),
        (["--config"], "needs the path"),
        (["--data", "nowhere/photos"], "--data nowhere/photos: there is no such file or folder"),
        (["--config", "a: [\n"], "not YAML"),
        (["--config", "- a\n- b\n"], "holds list, not settings by name"),
        (["--data"], "--data needs a name"),
        (["--method"], "--method needs a name"),
        (["--epochs"], "--epochs: expected one argument"),
        (["digits", "extra"], "extra"),
        (["--optim.momentum=0", "--optim.nesterov=true"], "nesterov is True; it needs a momentum above 0"),
        (["--model", "wrn17_1"], r"the depth of a WRN is 17; take 6 n \+ 4"),
    ],
)
def test_other_requests_that_cannot_be_meant(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(*words)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"# caf\xe9\nepochs: 3\n")
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        read("--config", str(file))


# A Config from Python


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", float("nan")), ("momentum", 1.0), ("gamma", 2.0), ("milestones", (0.7, 0.4)), ("schedule", "linear")],
)
def test_optim_is_checked_where_it_is_defined(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"optim\.{field} is "):
        Optim(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("batch_size", 1), ("precision", "float16"), ("ensemble", "mean")]
)
def test_config_is_checked_where_it_is_defined(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field} is {value!r}; "):
        replace(recipe("digits"), **{field: value})  # type: ignore[arg-type]


def test_as_dict_holds_plain_values_in_the_order_of_the_fields() -> None:
    values = read().as_dict()
    assert list(values) == [field.name for field in fields(Config)]
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_help_and_print_config_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "--print_config"):
        with pytest.raises(SystemExit) as caught:
            read("cifar100", "--epochs", "3", word)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "--method.alpha" in out
    assert from_yaml(out[out.index("data:\n") :].rstrip("\n")) == read("cifar100", "--epochs", "3")


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
