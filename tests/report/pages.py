"""A page, taken apart."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from metadistiller import outcomes, report
from metadistiller.records import RunFolder, read_json, write_json

FakeRun = Callable[..., RunFolder]

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with attributes, the text of each section (by its h2), and the cells of the tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self.tables: list[list[list[str]]] = []
        self.folder = RunFolder(path.parent)
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.sections["?"] = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "h2":
            self.sections[self.sections.pop("?")] = ""

    def handle_data(self, data: str) -> None:
        self.sections[list(self.sections)[-1]] += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def attributes(self, *names: str) -> list[str]:
        return [value for _, given in self.tags for name, value in given.items() if name in names]

    def charts(self) -> list[ElementTree.Element]:
        prefix = "data:image/svg+xml;base64,"
        return [
            ElementTree.fromstring(base64.b64decode(uri[len(prefix) :]))
            for uri in self.attributes("src")
            if uri.startswith(prefix)
        ]


def written(folder: RunFolder) -> Page:
    assert report.write(folder.path) == folder.report
    return Page(folder.report)


def table_below(page: Page, *headings: str) -> list[list[str]]:
    """The rows of the one table with these first headings."""
    (table,) = [table for table in page.tables if tuple(table[0][: len(headings)]) == headings]
    return table[1:]


def check_tables(page: Page) -> None:
    """What a screen reader needs: every row begins with its name, no heading is empty, and what scrolls is reached by
    keys.
    """
    assert page.tables
    assert all(given.get("tabindex") == "0" for _, given in page.tags if given.get("class") == "scroll")
    assert not re.search(r"<th[^>]*>\s*</th>", page.source)
    rows = [row for body in re.findall(r"(?s)<tbody>(.*?)</tbody>", page.source) for row in body.split("<tr")[1:]]
    assert rows
    for row in rows:
        assert re.match(r'[^>]*>\s*<th scope="row"', row), row


def keep_some(folder: RunFolder) -> None:
    """Let a run be one that kept the outputs of every second test image only, and so its mistakes."""
    found = outcomes.read(folder.outcomes)
    some = outcomes.Outcomes(
        logits=found.logits[:, ::2],
        labels=found.labels[::2],
        index=found.index[::2],
        total=found.total,
        trunk_macs=found.trunk_macs,
        exit_macs=found.exit_macs,
    )
    outcomes.write(some, folder.outcomes)
    write_json(folder.mistakes, read_json(folder.mistakes) | {"count": len(some.labels), "wrong": 70})
