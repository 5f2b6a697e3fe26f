"""Markdown that means the same whatever stands in it: text, code and tables."""

import re
from collections.abc import Sequence

from ._reading import printable

_SPECIAL = re.compile(r"([\\`*\[\]<>|~&#])")


def text(words: str) -> str:
    """Words that are shown as they are."""
    return _SPECIAL.sub(r"\\\1", printable(words))


def code(words: str, *, limit: int = 300) -> str:
    """Words as code, cut where they are longer than `limit` characters. Not for tables, where | would end the cell."""
    if not words:
        return ""
    shown = printable(words)
    shown = shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
    # A fence longer than any within; a space where the words begin or end with one.
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{space}{shown}{space}{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A table with aligned columns; the first `left` of them flush left, the others, which are numbers, right."""
    widths = [max(3, *(len(row[column]) for row in (headings, *rows))) for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * width) if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(headings), line(rule), *map(line, rows)])
