"""What is not there and what cannot be meant is refused by its name; every setting has a case."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from metadistiller.config import Augmentation, Config, Optim
from metadistiller.errors import ConfigError, UnknownName
from metadistiller.recipes import recipe
from metadistiller.settings import FAMILIES

from .reading import from_yaml, read

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
    ("method.generator_kl_weight", ["-0.1", "half"]),
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
