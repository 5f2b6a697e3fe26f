"""What the site takes from outside docs/, and where links lead that leave it. mkdocs.yml names this file as a hook.

Pages and files of the repository that docs/ links to become part of the site, so that it is whole without a network;
a link to anything else in the repository (a folder, a module) becomes its text. On a code host all of them are links.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

# From a file of the repository to its name in the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "evidence/README.md": "evidence.md",
}
FILES = ("evidence/ledger.json", "evidence/figure3.svg", "examples/*.py")

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```)", flags=re.MULTILINE | re.DOTALL)
# Of mkdocs, so that --strict counts what is told here.
log = logging.getLogger("mkdocs.hooks.site")


def _root(config: Any) -> Path:
    return Path(config.config_file_path).parent


def on_files(files: Any, config: Any) -> Any:
    """The pages and files from elsewhere, added."""
    root = _root(config)
    copied = {path.relative_to(root).as_posix() for pattern in FILES for path in root.glob(pattern)}
    for source, name in [*PAGES.items(), *((path, path) for path in sorted(copied))]:
        files.append(File.generated(config, name, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site needs them; code stays as it is."""
    origin = {name: source for source, name in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        name = PAGES.get(path, path.removeprefix("docs/"))
        if name in files.src_uris:
            return f"{image}[{text}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri))}{anchor})"
        if not (_root(config) / path).exists():
            log.warning("%s links to %s, which is not there", origin, target)
        return text

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(led, part) for part in parts)
