"""A page of docs/ as what can be run in it: its fenced blocks in order, and the code inside its sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))

_FENCE = re.compile(
    r"(?:^<!-- not run here: (?P<reason>[^\n]*?) -->\n|^`(?P<name>[\w./]+)`\n\n)?"
    r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: sh, python, yaml, json or text.
        name: of the file that it is, from a line `NAME` above it; empty for none.
        reason: why it is not run, from a comment above it; empty where it is run.
        where: page and line, for messages.
    """

    kind: str
    text: str
    name: str
    reason: str
    where: str

    def commands(self) -> Iterator[list[str]]:
        """The words of each command; a line that ends in a backslash goes on."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str, page: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.end()) - match["text"].count("\n")
        given = (match[part] or "" for part in ("kind", "text", "name", "reason"))
        found.append(Block(*given, where=f"docs/{page}:{line}"))
    return found


def spans(text: str) -> list[str]:
    """Code inside sentences and tables, on one line each."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _FENCE.sub("", text))]
