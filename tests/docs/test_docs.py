"""What the pages of docs/ show can be done, is done here: every command, every snippet, in the order of the page.

A page is a script in a folder of its own, in which photos/, labels.csv, two finished runs and the like lie ready
(world.py); runs are cut to one epoch. What cannot run here says so in a comment above the block, and is listed below;
of `pip install` the extras are looked up.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import torch

from metadistiller import cli
from metadistiller.lookup import FAMILIES, table
from metadistiller.settings import parse

from . import world as worlds
from .pages import DOCS, PAGES, ROOT, Block, blocks, read, spans

Captured = pytest.CaptureFixture[str]

NOT_RUN = {
    ("index.md", "fetches published weights"),
    ("data.md", "fetches a data set"),
    ("exporting.md", "needs an account at the hub"),
    ("networks.md", "measures every network; tests/members/test_network_sizes.py holds the page to it"),
    ("tracking.md", "wandb is in no extra"),
    ("ranks.md", "needs several GPUs and machines; tests/parallel runs several processes"),
}
# Files that a page shows, and the packages that they belong to.
PACKAGES = {
    "methods": "metadistiller.methods",
    "nn/backbones": "metadistiller.nn.backbones",
    "data": "metadistiller.data",
    "recipes": "metadistiller.recipes",
}
KINDS = {"sh", "python", "yaml", "text", "json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every kind, and two finished runs, `runs/a` and `runs/b`."""
    place = tmp_path_factory.mktemp("world")
    worlds.make(place)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        worlds.shorten(patched, reports=True)
        for seed, run in enumerate(("runs/a", "runs/b")):
            assert cli.main(["train", "--quiet", "--seed", str(seed), "--out", run]) == 0
    return place


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each command says of its options."""
    found = {}
    for command in cli.COMMANDS:
        with pytest.MonkeyPatch.context() as patched:
            said: list[str] = []
            patched.setattr(sys.stdout, "write", said.append)
            with pytest.raises(SystemExit):
                cli.main([command, "--help"])
        found[command] = "".join(said)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(read(page), page)])
def test_a_page_runs_from_top_to_bottom(
    page: str, world: Path, helps: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = read(page)
    monkeypatch.chdir(worlds.copied(world, tmp_path / "page", without=re.findall(r"--out (\S+)", text)))
    worlds.shorten(monkeypatch)
    for folder, package in PACKAGES.items():
        # An added module belongs to the package by lying in a folder of its path.
        monkeypatch.setattr(
            import_module(package), "__path__", [*import_module(package).__path__, str(Path(folder).resolve())]
        )
    # What a page calls images, without saying where they are from, is a batch as the digits are.
    namespace: dict[str, object] = {"__name__": "page", "images": torch.randn(4, 3, 32, 32)}
    before = set(sys.modules)
    try:
        for block in blocks(text, page):
            run(block, namespace, helps)
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("metadistiller."):
                del sys.modules[name]


def run(block: Block, namespace: dict[str, object], helps: dict[str, str]) -> None:
    assert block.kind in KINDS, f"{block.where}: who reads a block of kind {block.kind!r}?"
    if block.name:
        Path(block.name).parent.mkdir(parents=True, exist_ok=True)
        Path(block.name).write_text(block.text, encoding="utf-8")
    if block.kind == "yaml":
        parse(["--config", f"{block.text}\n"], command="metadistiller train")
    elif block.kind == "python" and not block.name:
        exec(compile("\n" * int(block.where.rpartition(":")[2]) + block.text, block.where, "exec"), namespace)
    elif block.kind == "sh":
        for words in block.commands():
            if block.reason or words[:2] == ["pip", "install"]:
                understood(words, block.where, helps)
            else:
                done(words, block.where)


def done(words: list[str], where: str) -> None:
    """Run one command."""
    if words[0] == "metadistiller":
        # Several seeds are one seed several times.
        short = [("1" if before == "--seeds" else word) for before, word in zip(["", *words], words, strict=False)]
        torch.manual_seed(0)
        if words[1] == "calibrate" and "--no-latency" not in words:
            short.append("--no-latency")
        if words[1] == "resume":
            # Short runs are over before anything could interrupt them.
            (Path(words[2]) / "result.json").unlink()
        try:
            code = cli.main(short[1:])
        except SystemExit as stopped:  # --help
            code = int(stopped.code or 0)
        assert code == 0, f"{where}: {shlex.join(words)} ends with {code}"
    elif words[0] == "python" and words[1].startswith("examples/"):
        # tests/test_examples.py runs them by the command that their docstrings have.
        assert shlex.join(words) in (ROOT / words[1]).read_text(encoding="utf-8"), where
    else:
        raise AssertionError(f"{where}: {shlex.join(words)} is run by nobody; say above the block why")


def understood(words: list[str], where: str, helps: dict[str, str]) -> None:
    """A command that is not run here must be one all the same."""
    if "metadistiller" in words:
        command, *rest = words[words.index("metadistiller") + 1 :]
        if command == "train":
            parse(rest, command="metadistiller train", add_extras=cli.training._add_train)
        else:
            assert unknown_options(rest, helps[command]) == [], where
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{where}: there is no {words[1]}"
        assert unknown_options(words[2:], (ROOT / words[1]).read_text(encoding="utf-8")) == [], where
    else:
        assert words[:2] == ["pip", "install"], f"{where}: {shlex.join(words)}"
        for named in re.findall(r"\[([\w,]+)\]", words[2]):
            assert set(named.split(",")) <= extras(), where


def extras() -> set[str]:
    """Of pyproject.toml, which Python 3.10 cannot read."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[project.")[0]
    return set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))


def unknown_options(words: list[str], source: str) -> list[str]:
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    # A script that reads its options from a dataclass names them without the dashes.
    return [name for name in options if not re.search(rf"\b{re.escape(name.lstrip('-'))}\b", source)]


def test_what_is_not_run_is_listed() -> None:
    found = {(page, block.reason) for page in PAGES for block in blocks(read(page), page) if block.reason}
    assert found == NOT_RUN
    # And no comment stands where it marks nothing.
    said = [(page, reason) for page in PAGES for reason in re.findall(r"<!-- not run here: (.*?) -->", read(page))]
    assert set(said) == NOT_RUN


def test_a_block_is_found_however_it_stands(tmp_path: Path) -> None:
    text = "a\n\n```sh\nmetadistiller list \\\n    data  # all\n```\n\n`run.yaml`\n\n```yaml\nepochs: 1\n```\n"
    first, second = blocks(text, "x.md")
    assert list(first.commands()) == [["metadistiller", "list", "data"]]
    assert (second.name, second.kind, second.text, second.where) == ("run.yaml", "yaml", "epochs: 1\n", "docs/x.md:10")
    for page in PAGES:
        fences = re.findall(r"^```", read(page), flags=re.MULTILINE)
        assert len(fences) == 2 * len(blocks(read(page), page)), page


# -- code inside sentences ---------------------------------------------------------------------------------------------


def options_of_members() -> Iterator[str]:
    for family, (package, _) in FAMILIES.items():
        for member in table(package).values():
            yield from (f"--{family}.{field.name}" for field in fields(member.options))


# Of torchrun, timm, and benchmarks/reliability.py.
FOREIGN = {"--max-restarts", "--nproc-per-node", "--dist-bn", "--only"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_inside_sentences_exist(page: str, helps: dict[str, str]) -> None:
    known = {*options_of_members(), *FOREIGN, "--debug", "--version"}
    for said in helps.values():
        known |= set(re.findall(r"--[\w.-]+", said))
    for code in spans(read(page)):
        words = re.split(r"[\s=]+", code)
        if words[0] == "python" and words[1:2] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), code
            assert unknown_options(words[2:], (ROOT / words[1]).read_text(encoding="utf-8")) == [], code
            continue
        if words[0] == "metadistiller" and len(words) > 1:
            assert words[1] in cli.COMMANDS or words[1] in ("COMMAND", "--help", "--version"), code
        if words[0] == "metadistiller" or words[0].startswith("--"):
            # --data.OPTION stands for all of them.
            options = [word for word in words if re.match(r"--\w", word) and word.lower() == word]
            unknown = [option for option in options if option not in known and spelled(option) not in known]
            assert unknown == [], f"docs/{page}: {code}"


def spelled(option: str) -> str:
    return "--" + option[2:].replace("-", "_")


# -- the equations -----------------------------------------------------------------------------------------------------


def resolved(name: str) -> object | None:
    """What a dotted name below metadistiller is, or None."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(["metadistiller", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


def test_every_function_that_the_method_names_exists() -> None:
    names = [code for code in spans(read("method.md")) if re.fullmatch(r"[a-z_]+(\.\w+)+", code)]
    names = [name for name in names if (ROOT / "src/metadistiller" / name.split(".")[0]).exists() or "losses." in name]
    assert len(names) > 20
    assert [name for name in names if resolved(name) is None] == []
    assert resolved("losses.nothing") is None
    assert resolved("nothing.at_all") is None


def test_every_equation_names_the_function_that_it_is() -> None:
    section = re.split(r"^## ", read("method.md"), flags=re.MULTILINE)[1]
    parts = re.split(r"^\*\*(Eq\. [\d and]+|Algorithm 1)\*\*", section, flags=re.MULTILINE)
    titles, texts = parts[1::2], parts[2::2]
    assert titles == ["Eq. 1", "Eq. 2", "Eq. 3 and 4", "Eq. 5", "Eq. 6", "Eq. 7", "Eq. 8", "Algorithm 1"]
    for title, text in zip(titles, texts, strict=True):
        functions = [name for name in spans(text) if "." in name and callable(resolved(name))]
        # Eq. 6 is what the others stand in for.
        assert bool(functions) == (title != "Eq. 6"), title


def test_the_report_has_the_sections_that_its_page_explains(world: Path) -> None:
    page = (world / "runs" / "a" / "report.html").read_text(encoding="utf-8")
    explained = re.findall(r"^## (.*)$", read("report.md"), flags=re.MULTILINE)
    assert [*re.findall(r"<h2>(.*?)</h2>", page), "Several runs"] == explained


def test_every_extra_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", read("installing.md").partition("## Extras")[2], flags=re.MULTILINE)
    assert extras() == set(explained)


def test_every_file_that_a_run_leaves_is_explained(world: Path) -> None:
    explained = re.findall(r"^\| `([\w.]+)/?` \|", read("run-folder.md"), flags=re.MULTILINE)
    # A dot begins what a lock or a half-written file is called.
    left = {path.name for path in (world / "runs" / "a").iterdir() if not path.name.startswith(".")}
    assert "outcomes.safetensors" in left
    assert left <= set(explained)


def test_the_pages_are_those_of_docs() -> None:
    assert (DOCS / "index.md").is_file()
    assert len(PAGES) > 20
