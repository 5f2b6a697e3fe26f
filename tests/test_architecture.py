"""The house stands as it was drawn: layers, sizes, what may be imported, what may be called."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import metadistiller

PACKAGE = Path(metadistiller.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOT = Path(__file__).parents[1]


def test_imports_go_down_the_layers_only() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import metadistiller",
        "import metadistiller.report",
        "import metadistiller.records, metadistiller.config, metadistiller.lookup, metadistiller.errors",
        "import metadistiller.signals, metadistiller.budget",
        "import metadistiller.paper, metadistiller.ledger, metadistiller.report._evidence",
        "import metadistiller; metadistiller.recipe('digits'); metadistiller.recipes.recipes()",
        "from metadistiller.cli import main; main(['--help'])",
    ],
)
def test_answers_without_torch(statement: str) -> None:
    assert run(f"{statement}\nimport sys; print('torch' in sys.modules)").splitlines()[-1] == "False"


def test_public_names_are_exactly_what_is_there() -> None:
    assert sorted(metadistiller.__all__) == metadistiller.__dir__()
    for name in metadistiller.__all__:
        assert getattr(metadistiller, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = metadistiller.trian


def test_importing_draws_nothing_and_sets_nothing() -> None:
    code = (
        "import torch; torch.manual_seed(1); a = torch.get_rng_state(); t = torch.get_num_threads()\n"
        "import metadistiller.cli, metadistiller.assemble, metadistiller.compare, metadistiller.inspection\n"
        "from metadistiller.lookup import table\n"
        "[table(f'metadistiller.{p}') for p in ('data', 'methods', 'nn.backbones')]\n"
        "print(torch.equal(a, torch.get_rng_state()) and t == torch.get_num_threads())"
    )
    assert run(code) == "True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    if path.name not in ("_version.py", "__main__.py"):
        assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


def test_the_engine_names_no_method() -> None:
    from metadistiller.lookup import table

    names = set(table("metadistiller.methods"))
    for path in (PACKAGE / "engine").glob("*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & names, f"{path.name} knows {strings & names}"


def test_every_public_class_says_what_it_is() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: class {node.name}"


def test_every_public_name_says_what_it_does() -> None:
    for name in set(metadistiller.__all__) - {"__version__"}:
        assert getattr(metadistiller, name).__doc__, name
