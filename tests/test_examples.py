"""The four loops of examples/ train as our own engine does, and run as their docstrings say."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import metadistiller
from loading import module_of
from metadistiller.config import Optim
from metadistiller.engine.optim import PlayerOptimizer
from metadistiller.lookup import find
from metadistiller.methods import Method, Setting
from metadistiller.nn import adapt

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPS = ("plain_pytorch", "lightning_module", "transformers_trainer", "timm_task")
STEPS, LR = 5, 0.05

pytestmark = [
    # Of the loops' own libraries.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    return module_of(EXAMPLES / f"{name}.py")


def by_the_engine(network: torch.nn.Module, steps: list[Any], *, generator_moves: bool = True) -> list[float]:
    """The method as the engine has it, with the engine's optimizers: student, then generator."""
    member = find("metadistiller.methods", "method", "metadistiller")
    options = member.configure({"lookahead": "own", "generator_width": 32})
    method: Method = member.build(options, Setting(adapt(network, size=(32, 32)), (32, 32), 0)).train()
    optimizers = {name: PlayerOptimizer(player, Optim(lr=LR)) for name, player in method.players().items()}
    losses = []
    for of_student, of_generator in steps:
        for objective, batch in zip(method.objectives(0), (of_student, of_generator), strict=True):
            found = objective.loss(batch, {"student": LR})
            optimizers[objective.of].differentiate(found.total)
            if objective.of == "student" or generator_moves:
                optimizers[objective.of].move(factor=1.0)
            if objective.of == "student":
                losses.append(found.total.item())
    return losses


@pytest.mark.parametrize("name", LOOPS)
def test_five_steps_are_the_engine_s(name: str) -> None:
    digits = example("digits")
    steps = digits.steps(STEPS)
    expected = by_the_engine(digits.network(), steps)
    boosted = metadistiller.boost(digits.network(), input_size=32, generator_width=32)
    found = example(name).train(boosted, steps, lr=LR)
    assert found == pytest.approx(expected, abs=1e-6, rel=0)
    # And the test would notice a generator that stands still.
    still = by_the_engine(digits.network(), steps, generator_moves=False)
    assert still != pytest.approx(expected, abs=1e-6, rel=0)


@pytest.mark.parametrize("name", LOOPS)
def test_runs_as_its_docstring_says(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLES / f"{name}.py"), "--steps", "2"]
    assert f"python examples/{name}.py --steps 20" in (EXAMPLES / f"{name}.py").read_text()
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("[")
