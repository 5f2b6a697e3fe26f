"""Toys that every test may use: networks and data small enough for a second."""

import os
import shutil
import sys
import tempfile

# The laws of bits hold on a processor; tests see no other device.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A digest of bits is only a law for a fixed number of threads. Beside other workers more than one would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# What is fastest here is measured anew for each session of tests, and then stays.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="metadistiller-tests-")

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# What benchmarks and tests share lies with the benchmarks, and processes of tests import it by name. At the end of the
# path, as some are called as libraries are.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pytest
import torch
from PIL import Image

from metadistiller import recipe
from metadistiller.config import Choice, Config, Optim

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_xdist_auto_num_workers() -> int:
    """Each takes up to 3 GiB, and beyond a few the longest file decides."""
    # Not every system says which of its processors are ours.
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, found)


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


def _without(what: str) -> NoReturn:
    if os.environ.get("METADISTILLER_BROWSER") == "required":
        pytest.fail(f"{what} is not installed, and METADISTILLER_BROWSER=required")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium without a window, for one module at a time: two at once cannot be driven from one process.

    Where there is none the tests that need it are skipped; METADISTILLER_BROWSER=required makes that a failure.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        _without("chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield found
        found.close()
