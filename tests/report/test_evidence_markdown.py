"""Whatever stands in a record, the evidence page is whole: nothing of it is taken for Markdown."""

import re
from dataclasses import replace

import pytest

from metadistiller.ledger import Record
from metadistiller.report._evidence import render
from metadistiller.report._markdown import code, table, text

from .evidence import HARDWARE, TAUGHT, cells, machines, mixed, run, variants


def test_no_text_can_break_the_page() -> None:
    nasty = "a|b`c``d\n# e\r\n<script>*x* [y](z) \\| \x1b[31m~~f~~"
    hardware = replace(HARDWARE, device=nasty)
    records = [
        run("resnet18", method, 0, 70.0, hardware=hardware, command=nasty, package=nasty, commit=nasty, **changed)
        for method, changed in (
            ("plain", {"overrides": {"optim.x": "a|b\nc"}}),
            ("metadistiller", {"overrides": {"method.x": "a|b\nc"}}),
            ("kd", {"teacher": replace(TAUGHT, network=nasty, device=f"{nasty}2")}),
        )
    ]
    page = render(records)
    clean = render([run("resnet18", "plain", 0, 70.0)])
    assert "\x1b" not in page
    assert "\r" not in page
    # As many headings as there ought to be: machine, ablation, and its own section.
    assert len(re.findall("^#", page, flags=re.MULTILINE)) == len(re.findall("^#", clean, flags=re.MULTILINE)) + 2
    assert "<script>" not in re.sub(r"(`+) ?.*?\1", "", page)
    for part in re.split(r"\n\n", page):
        assert len({len(line) for line in cells(part)}) <= 1, "a row has more cells than its table"


def test_tables_are_aligned_and_no_line_is_endless(full: list[Record]) -> None:
    long = [run("wrn16_1", "plain", 0, 60.0, command="metadistiller train " + "--x y " * 500)]
    page = render([*full, *mixed(), *variants(), *machines(), *long])
    for part in page.split("\n\n"):
        lines = part.splitlines()
        if part.startswith("|"):
            assert len({len(line) for line in lines}) == 1
            assert re.fullmatch(r"\|( -+:? \|)+", lines[1])
        assert max(map(len, lines)) < 500


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a", "`a`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("", ""),
        ("a\nb", "`a\ufffdb`"),
        ("x" * 9, "`xxxx…`"),
    ],
)
def test_code_is_fenced_by_more_than_it_holds(words: str, shown: str) -> None:
    assert code(words, limit=5) == shown


def test_text_is_shown_as_it_is() -> None:
    assert text("a*b|c<d>_e_") == r"a\*b\|c\<d\>_e_"


def test_a_table_by_hand() -> None:
    assert table(("a", "b"), [("x", "1"), ("yyyy", "22")], left=1).splitlines() == [
        "| a    |   b |",
        "| ---- | --: |",
        "| x    |   1 |",
        "| yyyy |  22 |",
    ]
