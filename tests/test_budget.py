"""A budget of time: what it may be called, and that it runs out."""

import pytest

from metadistiller.budget import Budget, seconds
from metadistiller.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("25m", 1500), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5)]
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "25", "25 m", "m", "-5m", "0m", "5x", "5m later", "1e3s", "m5"])
def test_what_is_no_time_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        seconds(text)
    assert f"--budget is {text!r}" in str(caught.value)


def test_it_runs_out_by_its_clock() -> None:
    now = [100.0]
    budget = Budget(10, lambda: now[0])
    assert (budget.left, budget.spent()) == (10, False)
    now[0] = 109.9
    assert not budget.spent()
    now[0] = 110
    assert (budget.left, budget.spent()) == (0, True)
    now[0] = 500
    assert budget.left == 0


def test_no_budget_never_runs_out() -> None:
    budget = Budget(None, lambda: 1e12)
    assert (budget.left, budget.spent()) == (None, False)
