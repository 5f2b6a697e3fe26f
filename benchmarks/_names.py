"""Names of classes, folders and files that mean harm, sent through a small run: nothing that it writes obeys them."""

import base64
import csv
import json
import math
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

import metadistiller
from metadistiller.assemble import default_folder
from metadistiller.building import load_data
from metadistiller.config import Choice, Config
from metadistiller.engine.export import load_network
from metadistiller.errors import DataError
from metadistiller.records import RunFolder, read_json
from metadistiller.settings import load_config

# Of folders, and so without a slash; the last one and ROOT are no UTF-8.
FOLDERS = (
    *("<script>alert(1)", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "<!--", "]]>", "&lt;b&gt;"),
    *("=cmd()", "+1", "-1", "@SUM(1)", "=1+1|'A'!B1", "\ta tab", "a line\nand another", "\x1b[31mred", "\u202egpj.exe"),
    *("x" * 250, "--data", "{{ 7 * 7 }}", "${HOME}", "$(id)", "`id`", "!!python_name:os.system", "- a: b"),
    *("# no comment", "null", "熊猫 ظبي", os.fsdecode(b"caf\xe9")),
)
# Of a table's labels; those with a slash or a control character are refused.
LABELS = (
    *("<script>alert(1)", "<b onclick=alert(1)>", "=cmd()", "@SUM(1)", "-1", "y" * 300, '"quoted", and "more"', "é"),
    *("true", "'", ";", "%s%n", "{{ 7 * 7 }}", "..", "a.b"),
)
REFUSED = ("../../canary", "</script>", "a\\b", "bell\x07", "\u202egpj.exe", "a line\nand another", "\x1b[31mred")
ROOT = "=root <i onclick=alert(1)>\n- !!python_name:os.system {{ 7 * 7 }} \u202e" + os.fsdecode(b"\xe9")

TAGS = frozenset(
    (
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "details", "summary", "pre"),
        *("div", "table", "thead", "tbody", "tr", "th", "td", "caption", "figure", "figcaption", "b", "span", "img"),
        *("svg", "rect", "code", "header", "nav", "ul", "li", "a", "section", "strong"),
    )
)
ATTRIBUTES = frozenset(
    (
        *("lang", "charset", "http-equiv", "content", "name", "class", "src", "alt", "scope", "viewbox"),
        *("preserveaspectratio", "aria-hidden", "aria-label", "width", "height", "href", "id", "tabindex"),
    )
)
WRITTEN = frozenset(
    (
        *("config.yaml", "events.jsonl", "log.txt", "results.csv", "checkpoints", "evaluation.json"),
        *("soft_targets.json", "mistakes.json", "outcomes.safetensors", "model.safetensors", "result.json"),
        *("report.html", ".lock"),
    )
)


@dataclass
class Page(HTMLParser):
    """What a browser makes of the page: elements, attributes, text, and whatever else there is."""

    source: str
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    uris: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.uris += [value or "" for name, value in attrs if name == "src"]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)

    handle_pi = unknown_decl


def run_of_folders(place: Path) -> RunFolder:
    """A run on class folders with these names, in a folder with such a name too."""
    root = place / ROOT
    for number, name in enumerate(FOLDERS):
        (root / name).mkdir(parents=True)
        for copy in range(2):
            Image.new("RGB", (8, 8), (8 * number, 100 * copy, 0)).save(root / name / f"{copy}.png")
    return _run(place, Choice(name="folder", options={"root": str(root), "size": 8, "val_fraction": 0.5}))


def run_of_a_table(place: Path) -> RunFolder:
    """A run on a table with these labels."""
    options = {"root": str(_table(place, LABELS)), "size": 8, "resize": 8, "val_fraction": 0.5, "workers": 1}
    return _run(place, Choice(name="table", options=options))


def refusal(place: Path, name: str) -> str | None:
    """What is wrong with how a label is refused; None where it is, in one line."""
    path = _table(place, (name, "other"))
    try:
        load_data(Choice(name="table", options={"root": str(path), "size": 8, "resize": 8, "val_fraction": 0.5}))
    except DataError as error:
        told = str(error)
        return None if str(path) in told and told.isprintable() else f"{name!r} is refused by {told!r}"
    return f"{name!r} is taken"


def _table(place: Path, labels: tuple[str, ...]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    with (place / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for number, label in enumerate(labels):
            for copy in range(2):
                Image.new("RGB", (8, 8), (8 * number, 100 * copy, 0)).save(place / f"{number}-{copy}.png")
                rows.writerow((f"{number}-{copy}.png", label))
    return place / "labels.csv"


def _config(data: Choice) -> Config:
    return Config(
        data=data,
        model=Choice(name="resnet10", options={"width": 4}),
        method=Choice(name="metadistiller"),
        epochs=1,
        batch_size=8,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )


def _run(place: Path, data: Choice) -> RunFolder:
    command = f"metadistiller train --data {data.options['root']}"
    return RunFolder(metadistiller.train(_config(data), place / "run", quiet=True, command=command).folder)


def objections(run: RunFolder, names: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Each law for what a finished run wrote, and how it was broken; None where it was not."""
    yield from (("report.html: " + law, found) for law, found in _of_the_page(run, names))
    yield "results.csv holds numbers under names of ours", _of_the_rows(run)
    yield "config.yaml means what the run used", _of_the_settings(run)
    yield "JSON and the network's header give the names back", _of_the_names(run, names)
    yield "no file is called after them", _unlike(set(os.listdir(run.path)), WRITTEN)
    yield "one line of the log is one line", _of_the_log(run)


def _of_the_page(run: RunFolder, names: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    page = Page(run.report.read_text(encoding="utf-8"))
    yield "no element but the template's", _unlike(page.tags, TAGS)
    yield "no attribute but the template's", _unlike(page.attributes, ATTRIBUTES)
    yield "nothing else than elements and text", str(page.other) if page.other else None
    yield "pictures are inside", next((uri for uri in page.uris if not uri.startswith("data:image/")), None)
    yield "links lead to its own sections", next((link for link in page.links if not link.startswith("#")), None)
    shown = "".join(page.text)
    turned = [name for name in names if not name.isprintable() and name in shown]
    yield "no name that turns or breaks lines", str(turned) if turned else None
    yield "names are there to be read", None if any(name in shown for name in names) else "none is"
    for uri in page.uris:
        if uri.startswith("data:image/svg+xml;base64,"):
            yield "a chart is only drawn", _of_a_chart(ElementTree.fromstring(base64.b64decode(uri.partition(",")[2])))


def _of_a_chart(chart: ElementTree.Element) -> str | None:
    for element in chart.iter():
        if element.tag.rpartition("}")[2] in ("script", "foreignObject", "a", "iframe"):
            return element.tag
        for name, value in element.attrib.items():
            # The matrix of confusions is a picture inside the picture.
            if name.startswith("on") or (name.endswith("href") and not value.startswith(("#", "data:image/png;"))):
                return f"{name}={value}"
    return None


def _of_the_rows(run: RunFolder) -> str | None:
    with run.results.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    bad = [name for name in header if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]
    bad += [cell for row in rows for cell in row if cell and not math.isfinite(float(cell))]
    return str(bad) if bad or not rows else None


def _of_the_settings(run: RunFolder) -> str | None:
    values = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    config = load_config(run).as_dict()
    return None if config == values and set(values) == set(_config(Choice(name="digits")).as_dict()) else str(values)


def _of_the_names(run: RunFolder, names: tuple[str, ...]) -> str | None:
    kept: dict[str, Any] = {
        "evaluation.json": read_json(run.evaluation)["classes"],
        "soft_targets.json": read_json(run.soft_targets)["classes"],
        "mistakes.json": read_json(run.mistakes)["classes"],
        "model.safetensors": load_network(run.weights).header["classes"],
    }
    return next((f"{file} has {found}" for file, found in kept.items() if sorted(found) != sorted(names)), None)


def _of_the_log(run: RunFolder) -> str | None:
    known = r"training .*|epoch 1/1 .*|finished in .*"
    lines = run.log.read_text(encoding="utf-8").split("\n")[:-1]
    lines += [
        line for line in run.events.read_text(encoding="utf-8").split("\n")[:-1] if "event" not in json.loads(line)
    ]
    return next((line for line in lines if not re.fullmatch(known, line)), None)


def _unlike(found: set[str], known: frozenset[str]) -> str | None:
    return str(sorted(found - known)) if found - known else None


def of_the_run_folder(name: str) -> str | None:
    """What is wrong with the default folder of a run of a network called so."""
    path = default_folder(replace(_config(Choice(name="digits")), model=Choice(name=name)))
    inside = path.parent == Path("runs") and len(os.fsencode(path.name)) <= 255 and path.name.isprintable()
    return None if inside and not set(path.name) & set('<>:"|?*\\\n') else str(path)


def all_objections(place: Path) -> Iterator[tuple[str, str | None]]:
    """Everything above, in an empty folder."""
    with warnings.catch_warnings():
        # Fonts that the machine lacks draw boxes.
        warnings.simplefilter("ignore")
        for source, run, names in (("folders", run_of_folders, FOLDERS), ("table", run_of_a_table, LABELS)):
            yield from ((f"{source}: {law}", found) for law, found in objections(run(place / source), names))
    for number, name in enumerate(REFUSED):
        yield f"{name!r} is refused as a label", refusal(place / f"refused {number}", name)
    for name in (*FOLDERS, *LABELS, *REFUSED):
        yield f"{name!r} in the name of a run folder", of_the_run_folder(name)
