"""docs/run-folder.md lists what there is: every column that a method writes, every exit code."""

import re
from pathlib import Path

import pytest

from metadistiller import errors
from metadistiller.cli import INTERRUPTED

from .test_methods import CASES, build
from .toys import EPOCHS, Steps

PAGE = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (found,) = (part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(f"{title}\n"))
    return found


def first_cells(title: str) -> list[str]:
    return [line.split("|")[1].strip() for line in section(title).splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("name", CASES)
def test_every_column_of_a_method_is_listed(name: str) -> None:
    listed = {column for cell in first_cells("results.csv") for column in re.findall(r"`(\w+)`", cell)}
    steps = Steps(build(name))
    # FitNet's second stage begins within the first half of its run.
    written = {column for epoch in (0, EPOCHS // 2) for column in steps.step(epoch)}
    assert {re.sub(r"_\d+_", "_K_", column) for column in written} <= listed


def test_every_exit_code_is_listed() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.exit_code for kind in kinds if issubclass(kind, errors.MetaDistillerError)}
    assert sorted(map(int, first_cells("Exit codes"))) == sorted({0, *known, INTERRUPTED})
