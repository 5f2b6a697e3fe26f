"""Tests of the engine do not draw reports; tests/report does."""

import pytest

from metadistiller import assemble


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble.report, "write", lambda folder: folder)
