"""A stranger's file runs nothing, a stranger's name is only text: what the package calls, and what hostile files do."""

import ast
import importlib
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest

import metadistiller
from metadistiller import report
from metadistiller.data import _cifar_files, _pictures
from metadistiller.records import RunFolder
from metadistiller.report import _page

PACKAGE = Path(metadistiller.__file__).parent
ROOT = Path(__file__).parents[1]


# -- what the package calls --------------------------------------------------------------------------------------------

# By the full name, wherever it was imported from and whatever it is called there.
NEVER = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "_pickle.load",
        "_pickle.loads",
        "marshal.load",
        "marshal.loads",
    ),
    *("shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load"),
    *("pandas.read_pickle", "torch.hub.load", "torch.package.PackageImporter", "torch.jit.load", "runpy.run_path"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("shutil.unpack_archive", "tempfile.mktemp"),
}
# Whatever they are called on.
NEVER_METHODS = {"extractall", "unsafe_load"}
_DOWNLOADS = {"load_state_dict_from_url", "load_url", "get_state_dict"}  # read what they fetch with torch.load
# Collectives that send pickles from one process to another.
_OBJECTS = re.compile(r"(gather|broadcast|scatter|send|recv|reduce)_object(_list)?$")


def distrusted(source: str) -> list[str]:
    """Calls in a module that could run what a file or another machine says, with their lines."""
    tree = ast.parse(source)
    names = _imported(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = _full_name(node, names)
            method = name.rpartition(".")[2]
            # Named at all, not only called: a function that is handed on is called elsewhere.
            if name in NEVER or method in NEVER_METHODS or _OBJECTS.search(name):
                found.append(f"line {node.lineno}: {name}")
        elif isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {what}" for what in _arguments(node, _full_name(node.func, names))]
    bases = _safe_bases(tree)
    return [line for line in found if line not in bases]


def _imported(tree: ast.AST) -> dict[str, str]:
    """From each name that an import binds to what it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _full_name(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return ""


def _arguments(call: ast.Call, name: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}

    def is_true(keyword: str) -> bool:
        value = given.get(keyword)
        return isinstance(value, ast.Constant) and value.value is True

    if name in ("torch.load", "torch.serialization.load") and not is_true("weights_only"):
        yield f"{name} without weights_only=True"
    if name.rpartition(".")[2] in _DOWNLOADS and not is_true("weights_only"):
        yield f"{name} without weights_only=True"
    if "shell" in given:
        yield "shell="
    if "allow_pickle" in given and ast.unparse(given["allow_pickle"]) != "False":
        yield "allow_pickle="
    if name.rpartition(".")[2] == "Environment" and not is_true("autoescape"):
        yield f"{name} without autoescape=True"


def _safe_bases(tree: ast.AST) -> set[str]:
    """The unpickler as the base of a class that says itself what may be named."""
    return {
        f"line {base.lineno}: pickle.Unpickler"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(inner, ast.FunctionDef) and inner.name == "find_class" for inner in node.body)
        for base in node.bases
        if ast.unparse(base) == "pickle.Unpickler"
    }


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_runs_what_a_file_or_another_machine_says(path: Path) -> None:
    assert distrusted(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads as read\nread(data)",
        "from pickle import loads\nmap(loads, files)",
        "import pickle\npickle.Unpickler(file).load()",
        "import pickle\nclass Lenient(pickle.Unpickler):\n    pass",
        "def later():\n    from _pickle import loads\n    return loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=strict)",
        "import torch as t\nt.load(path, 'cpu', None)",
        "from torch import load\nload(path)",
        "from torch import hub\nhub.load('a/b', 'c')",
        "import torch.distributed as dist\ndist.all_gather_object(objects, mine)",
        "from torch import distributed\ndistributed.broadcast_object_list(objects)",
        "import torch\ntorch.distributed.gather_object(mine)",
        "from torch.distributed import scatter_object_list\nscatter_object_list(a, b)",
        "from torch.distributed import send_object_list as send\nsend(a, 1)",
        "from torch.hub import load_state_dict_from_url as fetch\nfetch(url)",
        "weights.DEFAULT.get_state_dict(progress=False)",
        "eval('1')",
        "exec(code)",
        "from builtins import eval as run\nrun('1')",
        "__import__(name)",
        "import subprocess\nsubprocess.run(words, shell=True)",
        "import os\nos.system(words)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import tarfile\ntarfile.open(path).extractall(place)",
        "import marshal\nmarshal.loads(data)",
        "from jinja2 import Environment\nEnvironment(loader=loader)",
        "import jinja2\njinja2.Environment(autoescape=False)",
    ],
)
def test_what_could_run_a_stranger_s_code_is_found(source: str) -> None:
    assert distrusted(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import json\njson.loads(text)",
        "import re\nre.compile('a')",
        "model.eval()",
        "import torch.distributed as dist\ndist.all_reduce(tensor)",
        "import subprocess\nsubprocess.run(words)",
        "import pickle\nclass Strict(pickle.Unpickler):\n    def find_class(self, module, name): ...",
        "from jinja2 import Environment\nEnvironment(autoescape=True)",
        "import yaml\nyaml.safe_load(text)",
    ],
)
def test_what_could_not_is_not(source: str) -> None:
    assert distrusted(source) == []


# -- what hostile files do ---------------------------------------------------------------------------------------------


@pytest.fixture
def hostile() -> ModuleType:
    return importlib.import_module("_hostile")


@pytest.fixture
def bombs() -> ModuleType:
    return importlib.import_module("_bombs")


@pytest.fixture
def names() -> ModuleType:
    return importlib.import_module("_names")


def objections(attempts: Iterator[Any], place: Path) -> list[str]:
    found = []
    for number, attempt in enumerate(attempts):
        (place / str(number)).mkdir()
        found.append(attempt.objection(place / str(number)))
    assert len(found) > 50
    return [objection for objection in found if objection]


@pytest.mark.parametrize("kind", ["_pickles", "_settings", "_archives"])
def test_nothing_of_a_hostile_file_runs_or_is_written(hostile: ModuleType, tmp_path: Path, kind: str) -> None:
    assert objections(getattr(hostile, kind)(), tmp_path) == []


def test_images_that_unfold_or_are_none_are_refused_by_name(bombs: ModuleType, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # Pillow warns of what is then refused.
        warnings.simplefilter("ignore")
        assert objections(bombs.attempts(), tmp_path) == []


def test_each_of_the_pickles_runs_its_program_where_it_is_let(hostile: ModuleType, tmp_path: Path) -> None:
    for number, (name, program) in enumerate(hostile.programs()):
        place = tmp_path / str(number)
        place.mkdir()
        pickle.loads(program(place / "canary"))  # noqa: S301  # these are our own
        assert list(place.glob("canary*")), name


def test_an_unpickler_that_allows_all_is_found(
    hostile: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cifar_files._ArraysOnly, "find_class", pickle.Unpickler.find_class)
    found = objections(hostile._pickles(), tmp_path)
    assert {name.partition(": ")[2] for name in found} == {"a program has run, or a file was written outside"}
    assert len([name for name in found if "CIFAR" in name]) == 2 * len(list(hostile.programs()))


def test_a_reader_of_images_without_a_limit_is_found(
    bombs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlimited(place: Path, data: bytes) -> None:
        _pictures.read_picture(str(bombs._class_folders(place, data) / "train/cat/hostile.png"), max_pixels=10**9)

    monkeypatch.setattr(bombs, "ENTRANCES", {"a reader": unlimited})
    (tmp_path / "one").mkdir()
    bomb = next(attempt for attempt in bombs.attempts() if attempt.name.startswith("26 million"))
    assert bomb.objection(tmp_path / "one") == "26 million pixels in a reader: it was taken"


# -- what hostile names do ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunFolder, Any]]:
    names = importlib.import_module("_names")
    with warnings.catch_warnings():
        # Of letters that matplotlib's fonts lack.
        warnings.simplefilter("ignore")
        place = tmp_path_factory.mktemp("names")
        return {
            "folders": (names.run_of_folders(place / "folders"), names.FOLDERS),
            "table": (names.run_of_a_table(place / "table"), names.LABELS),
        }


@pytest.mark.parametrize("source", ["folders", "table"])
def test_names_from_the_data_are_only_text_in_all_that_a_run_writes(
    names: ModuleType, runs: dict[str, tuple[RunFolder, Any]], source: str
) -> None:
    found = dict(names.objections(*runs[source]))
    assert len(found) >= 12
    assert {law: broken for law, broken in found.items() if broken} == {}


def test_names_that_no_file_could_have_are_refused_as_labels(names: ModuleType, tmp_path: Path) -> None:
    found = [names.refusal(tmp_path / str(number), name) for number, name in enumerate(names.REFUSED)]
    assert [objection for objection in found if objection] == []
    assert names.refusal(tmp_path / "fair", "cat")


def test_a_run_folder_s_name_is_a_plain_one(names: ModuleType) -> None:
    wanted = (*names.FOLDERS, *names.LABELS, *names.REFUSED)
    assert [found for name in wanted if (found := names.of_the_run_folder(name))] == []


def test_a_page_that_does_not_escape_is_found(
    names: ModuleType, runs: dict[str, tuple[RunFolder, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = runs["folders"]
    before = run.report.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(
            _page, "Environment", lambda **options: jinja2.Environment(**options | {"autoescape": False})
        )
        report.write(run.path)
        broken = {law for law, objection in names.objections(run, given) if objection}
        monkeypatch.undo()
        report.write(run.path)
    assert {"report.html: no element but the template's", "report.html: no attribute but the template's"} <= broken
    assert run.report.read_bytes() == before


def test_what_other_files_could_do_wrong_is_found(
    names: ModuleType, runs: dict[str, tuple[RunFolder, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = runs["table"]
    kept = {path: path.read_bytes() for path in (run.results, run.config, run.evaluation, run.log)}
    for path, text, law in (
        (run.results, "epoch,=cmd()\n0,1\n", "results.csv holds numbers under names of ours"),
        (run.config, "epochs: 1\n", "config.yaml means what the run used"),
        (run.evaluation, '{"classes": ["cat"]}', "JSON and the network's header give the names back"),
        (run.log, "training a\nb\n", "one line of the log is one line"),
    ):
        path.write_text(text)
        assert dict(names.objections(run, given))[law]
        path.write_bytes(kept[path])
    (run.path / "<script>").touch()
    assert dict(names.objections(run, given))["no file is called after them"]
    (run.path / "<script>").unlink()
    assert not any(dict(names.objections(run, given)).values())
