"""The evidence page as a file: beside its ledger, and never older than it."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metadistiller import ledger, report
from metadistiller.errors import LedgerError
from metadistiller.ledger import Record
from metadistiller.report._evidence import render

from .evidence import section


def test_the_page_is_written_beside_the_ledger(tmp_path: Path, full: list[Record]) -> None:
    for record in full:
        ledger.append(tmp_path / "ledger.json", record)
    before = (tmp_path / "ledger.json").read_bytes()
    page = report.write_evidence(tmp_path)
    assert page == tmp_path / "README.md"
    assert page.read_text(encoding="utf-8") == render(full)
    assert (tmp_path / "ledger.json").read_bytes() == before
    first = page.read_bytes()
    assert report.write_evidence(str(tmp_path)).read_bytes() == first


def test_figure_3_is_shown_where_it_stands_beside_the_page(tmp_path: Path, full: list[Record]) -> None:
    ledger.append(tmp_path / "ledger.json", full[0])
    assert "figure3" not in report.write_evidence(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "figure3.svg").touch()
    page = report.write_evidence(tmp_path).read_text(encoding="utf-8")
    assert section(page, "Figure 3").endswith("(figure3.svg)\n\n")


def test_the_page_is_read_and_written_while_nobody_else_may_enter(
    tmp_path: Path, full: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the slower of two processes would put its older page over a newer one."""
    source = tmp_path / "ledger.json"
    ledger.append(source, full[0])
    held: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            with source.with_name(".ledger.json.lock").open("a") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(name)
            return function(*words)

        return call

    monkeypatch.setattr(ledger, "read", watched("read", ledger.read))
    monkeypatch.setattr(report, "write_text", watched("write", report.write_text))
    report.write_evidence(tmp_path)
    assert held == ["read", "write"]
    assert ledger.append(source, full[1]), "it is let go of"


def test_without_a_ledger_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"ledger\.json is not there; give the folder of a ledger"):
        report.write_evidence(tmp_path)
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(LedgerError, match="is not JSON"):
        report.write_evidence(tmp_path)
    assert not (tmp_path / "README.md").exists()
