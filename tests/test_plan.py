"""The plan past one machine: the page is what the script writes, and its arithmetic obeys its laws."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def plan() -> ModuleType:
    return importlib.import_module("plan")


def test_the_page_is_what_the_script_writes(plan: ModuleType) -> None:
    assert (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8") == plan.page(plan.Given())


def test_one_gpu_exchanges_nothing_and_more_exchange_more(plan: ModuleType) -> None:
    given = plan.Given()
    messages = [plan.Message("sum", 10**8), plan.Message("gather", 100, 7)]
    times = [plan.exchange(messages, gpus, given) for gpus in (1, 2, 8, 16, 512)]
    assert times[0] == 0
    assert times == sorted(times)
    twice = [plan.exchange(messages * 2, gpus, given) for gpus in (1, 2, 8, 16, 512)]
    assert twice == pytest.approx([2 * time for time in times])


def test_time_falls_with_images_a_second_until_launches_are_all_of_it(plan: ModuleType) -> None:
    network = plan.Network.read(plan.Given())
    hours = [
        plan.row(network, 8, 128, replace(plan.Given(), images_per_second=rate))["hours"]
        for rate in (1e2, 1e3, 1e4, 1e8, 1e9)
    ]
    assert hours[:4] == sorted(hours[:4], reverse=True)
    assert hours[0] / hours[1] == pytest.approx(10, rel=0.05)
    assert hours[3] == hours[4]


def test_without_meta_steps_an_epoch_is_its_students_steps(plan: ModuleType) -> None:
    network = plan.Network.read(plan.Given())
    times = plan.step_times(network, 8, 128, plan.Given())
    _, rare = plan.epoch_seconds(times, 128_000, 1024, every=10**9)
    assert rare == pytest.approx(125 * times["student"].total / 1000)
    _, always = plan.epoch_seconds(times, 128_000, 1024, every=1)
    assert always - rare == pytest.approx(125 * times["meta"].total / 1000)


def test_costs_are_hours_times_gpus(plan: ModuleType) -> None:
    for row in plan.plan(plan.Given())["rows"]:
        assert row["dollars"] == pytest.approx(row["hours"] * row["gpus"] * plan.Given().price_per_hour)
        # Steps are whole: the last one of an epoch may be short.
        assert row["billion_hours"] / (row["hours"] / plan.EPOCHS) == pytest.approx(
            plan.BILLION / plan.IMAGENET, rel=0.02
        )
