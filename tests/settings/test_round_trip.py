"""From a Config to YAML and back, over every recipe and member."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from metadistiller.config import Config
from metadistiller.errors import CheckpointError
from metadistiller.lookup import table
from metadistiller.recipes import recipes
from metadistiller.records import RunFolder
from metadistiller.settings import load_config

from .reading import from_yaml, read

METHODS = tuple(table("metadistiller.methods"))
NETWORKS = (*table("metadistiller.nn.backbones"), "wrn22_3")


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
    "--method.generator_kl_weight=0.1",
    "--method.heldout=all",
    "--method.heldout_batch_size=7",
    "--method.lookahead=own",
    "--method.derivative=finite_differences",
    "--method.meta_precision=float32",
    "--data.train_per_class=5",
    "--model.stem=imagenet",
)
# What EVERYTHING cannot have as well: labels first are refused beside a restraint towards uniform targets.
THE_REST = ("--method.generator_warmup_epochs=1",)
CONFIGS = [
    *(pytest.param((name,), id=name) for name in recipes()),
    *(pytest.param(("--method", name), id=name) for name in METHODS),
    *(pytest.param(("--model", name), id=name) for name in NETWORKS),
    *(pytest.param(("cifar100", "--method", name, "--model", "wrn16_1"), id=f"cifar100-{name}") for name in METHODS),
    pytest.param(EVERYTHING, id="everything"),
    pytest.param(THE_REST, id="the-rest"),
]


@pytest.mark.parametrize("words", CONFIGS)
def test_yaml_gives_the_same_config_back(words: tuple[str, ...]) -> None:
    config = read(*words)
    assert round_trip(config) == config


@pytest.mark.parametrize("words", [EVERYTHING, THE_REST], ids=["everything", "the-rest"])
def test_these_cases_change_what_they_name(words: tuple[str, ...]) -> None:
    changed, usual = read(*words).as_dict(), read().as_dict()
    for word in words:
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
