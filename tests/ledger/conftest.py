"""A ledger that is not there yet, and the recipe that most made-up runs are of."""

from pathlib import Path

import pytest

from metadistiller import recipe
from metadistiller.building import written_out
from metadistiller.config import Config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence" / "ledger.json"


@pytest.fixture
def kd() -> Config:
    return written_out(recipe("cifar100_resnet18_kd"))
