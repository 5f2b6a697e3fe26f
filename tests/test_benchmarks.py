"""The benchmarks' own arithmetic, and the form of what they print, on networks of a few channels."""

import importlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metadistiller.config import Choice
from metadistiller.data import Augment, Dataset, ImageSet

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = Choice(name="resnet10", options={"width": 2})
RATIOS = {
    "time_vs_double_backward",
    "memory_vs_double_backward",
    "time_vs_higher",
    "memory_vs_higher",
    "time_vs_plain_step",
}


@pytest.fixture(scope="module", autouse=True)
def _import_from_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


# What is measured with


def mib(count: int) -> torch.Tensor:
    return torch.zeros(count * 2**18)


def test_the_peak_of_a_step_is_the_most_that_it_holds_at_once() -> None:
    peak = script("_measure").peak_memory_mb
    assert peak(lambda: [mib(1), mib(2)], CPU) == pytest.approx(3, abs=0.01)

    def one_after_the_other() -> None:
        for count in (1, 3, 2):
            mib(count)

    assert peak(one_after_the_other, CPU) == pytest.approx(3, abs=0.01)


def test_what_a_step_leaves_behind_does_not_count_for_the_next() -> None:
    peak, kept = script("_measure").peak_memory_mb, []
    assert peak(lambda: kept.append(mib(2)), CPU) == pytest.approx(2, abs=0.01)
    assert peak(kept.clear, CPU) == 0
    assert peak(lambda: mib(1), CPU) == pytest.approx(1, abs=0.01)


def test_operations_of_the_backward_pass_are_counted_and_the_peak_stays() -> None:
    measure = script("_measure")
    weight = mib(1).requires_grad_()

    def step() -> torch.Tensor:
        return torch.autograd.grad((weight * 2).sum(), weight)[0]

    counted = measure.Counted(step)
    assert measure.peak_memory_mb(counted, CPU) == pytest.approx(measure.peak_memory_mb(step, CPU), abs=0.001)
    assert counted.operations >= 4
    assert torch.equal(counted.result, torch.full_like(weight, 2))


def test_the_median_leaves_the_warm_up_out_and_steps_take_turns() -> None:
    order: list[str] = []
    steps = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = script("_measure").medians(steps, device=CPU, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert set(found) == {"a", "b"}
    assert all(time >= 0 for time in found.values())


def test_the_machine_is_described() -> None:
    found = script("_measure").environment(CPU)
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert {"processor", "python", "platform", "device"} <= set(found)


# meta_step.py


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    meta_step = script("meta_step")
    found: dict[str, Any] = meta_step.benchmark([meta_step.Case(TINY, 4, True)], repeats=1, warmup=0)
    return found


def test_meta_step_prints_what_it_says(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured)) == measured
    assert measured["headline"] == {"network": "resnet10", "batch": 4}
    assert set(measured["ratios"]) == set(measured["shared"]) == RATIOS
    assert set(measured["float32"]["ratios"]) == set(measured["float32"]["shared"]) == RATIOS
    forms = {"double_backward", "higher", "plain_step", "own", "shared", "own_float32", "shared_float32"}
    for batches in measured["details"].values():
        for found in batches.values():
            assert forms <= set(found)
            for row in found.values():
                assert set(row) == {"median_ms", "peak_mb", "operations", "relative_error"}


def test_what_is_compared_computes_the_same(measured: dict[str, Any]) -> None:
    found = measured["details"]["resnet10"]["4"]
    assert measured["relative_error"] < 1e-10
    assert found["higher"]["relative_error"] == pytest.approx(found["double_backward"]["relative_error"], abs=1e-3)
    assert found["plain_step"]["relative_error"] is None


def test_shared_is_what_is_added_to_the_students_step(measured: dict[str, Any]) -> None:
    found = measured["details"]["resnet10"]["4"]
    added = found["shared_step"]["operations"] - found["student_step"]["operations"]
    assert found["shared"]["operations"] == added
    assert found["shared"]["peak_mb"] == found["shared_step"]["peak_mb"]


def test_without_higher_the_error_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "higher", None)
    with pytest.raises(SystemExit, match=r"extra test: pip install"):
        script("_meta_forms").library()


# scaling.py


def test_along_an_axis_one_thing_grows() -> None:
    def scenes(axis: str, *values: Any) -> list[Any]:
        found = script("scaling").scenes_of(axis, values, width=2, batch=2)
        assert tuple(found) == values
        return list(found.values())

    assert [len(scene.train_batch[0]) for scene in scenes("batch", 2, 4)] == [2, 4]
    assert [scene.generator.lateral[0].out_channels for scene in scenes("width", 3, "mirror")] == [3, 4]
    assert [scene.student.backbone.num_stages for scene in scenes("stages", 2, 5)] == [2, 5]
    assert [scene.student.backbone.num_classes for scene in scenes("classes", 3, 5)] == [3, 5]


def test_an_axis_has_a_row_for_each_value() -> None:
    scaling = script("scaling")
    rows = scaling.grow("stages", scaling.scenes_of("stages", (2, 3), width=2, batch=2), repeats=1)
    assert [row["value"] for row in rows] == [2, 3]
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert row["axis"] == "stages"
        assert row["shared_ms"] == row["shared_step_ms"] - row["student_ms"]
        assert all(row[f"{form}_mb"] > 0 for form in ("student", "shared_step", "own"))


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"axis is 'depth'; take batch, width, stages or classes"):
        script("scaling").scenes_of("depth", (1,), width=2, batch=2)


def test_what_is_proportional_has_exponent_one() -> None:
    rows = [{"axis": "batch", "value": n, "a": 3.0 * n, "b": n**0.5, "c": -1.0} for n in (1, 2, 4)]
    found = script("scaling").exponents(rows)
    assert found == {"a": pytest.approx(1), "b": pytest.approx(0.5), "c": None}


def test_a_training_set_has_times_of_every_stream() -> None:
    row = script("scaling").data_row(200, 4, side=8, epochs=1, steps=2)
    assert row["value"] == 200
    for stream in ("train", "disjoint", "halves"):
        assert row[f"{stream}_ms"] > 0
        assert row[f"{stream}_first_step_ms"] > 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say it there")
@pytest.mark.parametrize("lookahead", ["shared", "own"])
def test_resident_memory_is_read_at_its_marks(lookahead: str) -> None:
    threads = torch.get_num_threads()
    found = script("scaling").resident_over_steps(TINY, lookahead=lookahead, marks=(1, 3), batch=50, images=100)
    assert set(found) == {1, 3}
    assert all(memory > 1 for memory in found.values())
    assert torch.get_num_threads() == threads


# reliability.py


def test_figures_are_counted_and_told_on_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reliability = script("reliability")
    threads = torch.get_num_threads()

    def figure(place: Path, *, quick: bool) -> tuple[int, int]:
        assert list(place.iterdir()) == []
        found: tuple[int, int] = reliability._counted([None, "what went wrong", None] if quick else [None])
        return found

    monkeypatch.setattr(reliability, "FIGURES", {"one": figure, "other": figure})
    monkeypatch.setattr(reliability, "SLOWEST", ("other", "one"))
    # A process of its own would not know these figures.
    monkeypatch.setattr(reliability, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(1))
    for words, expected in (
        (["--quick", "--json"], {"one": {"passed": 2, "tried": 3}, "other": {"passed": 2, "tried": 3}}),
        (["--json", "--only", "other"], {"other": {"passed": 1, "tried": 1}}),
    ):
        monkeypatch.setattr(sys, "argv", ["reliability.py", *words])
        reliability.main()
        told = capsys.readouterr()
        assert json.loads(told.out.splitlines()[-1]) == expected
        assert ("what went wrong" in told.err) == ("--quick" in words)
    torch.set_num_threads(threads)


def test_what_reliability_py_says_it_measures_is_what_it_does() -> None:
    reliability = script("reliability")
    assert sorted(reliability.SLOWEST) == sorted(reliability.FIGURES)
    assert all(f"\n    {name} " in reliability.__doc__ for name in reliability.FIGURES)


# export_parity.py


def test_every_network_has_a_row_for_each_format_that_says_whether_it_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parity = script("export_parity")
    drawn = torch.Generator().manual_seed(0)
    images = ImageSet(torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8, generator=drawn), torch.arange(100))
    dataset = Dataset(
        name="noise",
        train=images,
        test=images,
        classes=tuple(map(str, range(100))),
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        augment=Augment(),
        source="noise",
    )
    [row] = parity.rows_of("wrn10_1", dataset, ["safetensors"], 4)
    assert json.loads(capsys.readouterr().err) == row
    assert (row["passes"], row["gap"], row["images"], row["size"]) == (True, 0, 4, 32)
    assert row["bytes"] > 4 * 70_000


def test_early_exit_tells_what_was_saved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    latency = importlib.import_module("metadistiller.engine.latency")
    monkeypatch.setattr(latency, "FEWEST", 1)
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["early_exit.py", "--quick", "--json", "--max-loss", "50"])
    script("early_exit").main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    plain, ours = found["rows"][:2]
    assert (plain["saved"], plain["time"]) == (0, {"1": 1, "32": 1, "256": 1})
    assert ours["saved"] == pytest.approx(100 * (1 - ours["macs"] / plain["macs"]), rel=1e-2)
    assert ours["time"].keys() == plain["time"].keys()
    assert found["run"]["network"] == "resnet18"
