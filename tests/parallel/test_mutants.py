"""Bugs planted on purpose are seen by the laws against them."""

from pathlib import Path

import pytest
from _mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_the_bug_is_seen(name: str, tmp_path: Path) -> None:
    assert MUTANTS[name](tmp_path) is None
