"""Toys that every test may use: networks and data small enough for a second."""

import os
import sys
import tempfile

# The laws of bits hold on a processor; tests see no other device.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A digest of bits is only a law for a fixed number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# What is fastest here is measured anew for each session of tests, and then stays.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="metadistiller-tests-")

from dataclasses import replace
from pathlib import Path

# What benchmarks and tests share lies with the benchmarks, and processes of tests import it by name. At the end of the
# path, as some are called as libraries are.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pytest
import torch
from PIL import Image

from metadistiller import recipe
from metadistiller.config import Choice, Config, Optim


@pytest.fixture
def tiny_config() -> Config:
    """Three epochs of MetaDistiller on 40 digits: meta epochs 0 and 2, three steps each."""
    return Config(
        data=Choice(name="digits", options={"train_per_class": 4}),
        model=Choice(name="resnet10", options={"width": 4}),
        method=Choice(name="metadistiller", options={"meta_every_epochs": 2, "generator_lr": 0.01}),
        optim=Optim(lr=0.05),
        epochs=3,
        batch_size=16,
        eval_batch_size=400,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )


@pytest.fixture
def digits_config() -> Config:
    """The first README command's run, made short."""
    return replace(recipe("digits"), epochs=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of eight photographs each, all of them different."""
    drawn = torch.Generator().manual_seed(3)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = torch.randint(256, (24, 24, 3), dtype=torch.uint8, generator=drawn)
            Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    torch.manual_seed(0)
