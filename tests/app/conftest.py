"""Runs to look at, trained once."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from metadistiller import assemble
from metadistiller.config import Choice, Config, Optim
from metadistiller.errors import Paused

TINY = Config(
    data=Choice(name="digits", options={"train_per_class": 4}),
    model=Choice(name="resnet10", options={"width": 4}),
    method=Choice(name="metadistiller", options={"meta_every_epochs": 2, "generator_lr": 0.01}),
    optim=Optim(lr=0.05),
    epochs=2,
    batch_size=16,
    eval_batch_size=400,
    precision="float32",
    memory_format="contiguous",
    threads=1,
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble.train(TINY, tmp_path_factory.mktemp("app") / "md", quiet=True).folder


@pytest.fixture(scope="session")
def without_exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(TINY, method=Choice(name="plain", options={}))
    return assemble.train(config, tmp_path_factory.mktemp("app") / "plain", quiet=True).folder


@pytest.fixture(scope="session")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After one epoch of two."""
    place = tmp_path_factory.mktemp("app") / "paused"
    asked = itertools.count()
    with pytest.raises(Paused):
        assemble.train(TINY, place, quiet=True, stop=lambda: next(asked) >= 3)
    return place
