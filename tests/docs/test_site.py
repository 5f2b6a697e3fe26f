"""The site builds without a warning, is whole, and asks no other host for anything."""

import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from loading import module_of

from .pages import PAGES, ROOT

for package in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(package, reason="the site needs pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # mkdocs-material tells of its own future otherwise.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return place


class Links(HTMLParser):
    """What a page loads by itself, and where it leads when somebody follows a link."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.led: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.names.add(given.get("id", ""))
        for key in ("src", "srcset", "data", "poster", "action", "href", "xlink:href"):
            if given.get(key):
                # Links between pages are followed by people; whatever else has an address is fetched.
                followed = tag == "a" or (tag == "link" and given.get("rel") in ("prev", "next", "canonical"))
                (self.led if followed else self.loaded).append(given[key])


def html(site: Path) -> Iterator[tuple[Path, Links]]:
    for path in sorted(site.rglob("*.html")):
        # The page for what is not there takes its files from the root of a server.
        if path.name != "404.html":
            yield path, Links(path.read_text(encoding="utf-8"))


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        assert (site / page).with_suffix(".html").is_file(), page


def test_the_contents_name_every_page_once() -> None:
    listed = re.search(r"(?ms)^nav:\n(.*)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert listed is not None
    named = re.findall(r"(\S+\.md)$", listed[1], flags=re.MULTILINE)
    assert named
    assert len(named) == len(set(named)), [name for name in named if named.count(name) > 1]


def test_the_source_distribution_has_what_the_site_is_made_of() -> None:
    """Every page and file of the repository that a page leads to, so that the site builds from it without a warning."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"targets\.sdist\]\ninclude = (\[.*\])", project)
    assert listed is not None
    kept = json.loads(listed[1])
    hook = module_of(ROOT / "scripts" / "site.py")
    sources = [*hook.PAGES, *(f"docs/{page}" for page in PAGES)]
    found = {source: source for source in sources}
    for source in sources:
        for part in hook._FENCE.split((ROOT / source).read_text(encoding="utf-8"))[::2]:
            for _, _, target, _ in hook._LINK.findall(part):
                if not urlsplit(target).scheme:
                    found[posixpath.normpath(posixpath.join(posixpath.dirname(source), target))] = source
    for path, source in found.items():
        assert any(fnmatch(path.split("/")[0], pattern) for pattern in kept), f"{source} leads to {path}"


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for path, links in html(site):
        for address in links.loaded:
            assert not urlsplit(address).netloc, f"{path.name} loads {address}"
            assert (path.parent / unquote(urlsplit(address).path)).exists(), f"{path.name} loads {address}"
    text = (site / "404.html").read_text(encoding="utf-8")
    assert not [address for address in Links(text).loaded if urlsplit(address).netloc]
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_links_inside_the_site_lead_somewhere(site: Path) -> None:
    pages = dict(html(site))
    for path, links in pages.items():
        for address in links.led:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].names, f"{path.name} links to {address}"


def test_links_that_leave_docs_become_pages_files_or_words(site: Path) -> None:
    text = (site / "your-own-loop.html").read_text(encoding="utf-8")
    assert 'href="examples/plain_pytorch.py"' in text
    assert (site / "examples" / "plain_pytorch.py").read_bytes() == (ROOT / "examples/plain_pytorch.py").read_bytes()
    assert 'href="evidence.html"' in (site / "reproducing.html").read_text(encoding="utf-8")
    # scripts/ is no part of the site: in CONTRIBUTING its links to docs/ stay, and those to modules are words.
    assert "../" not in "".join(dict(html(site))[site / "contributing.html"].led)


def test_the_search_knows_the_words(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert [entry for entry in entries if "meta_every_epochs" in entry["text"]]
    # For a page that was opened from a file.
    assert (site / "search" / "search_index.js").is_file()
