"""Formats are measured once for each network and machine, and then stay what they were."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metadistiller.assemble import assemble
from metadistiller.building import load_data
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine import formats, machine
from metadistiller.engine.formats import CANDIDATES, Formats, fastest, measure
from metadistiller.errors import ConfigError
from metadistiller.nn import build_network
from small_runs import SIXTEEN_WIDE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metadistiller" / "formats.json"


def rigged(monkeypatch: pytest.MonkeyPatch, seconds: dict[Formats, float]) -> list[int]:
    """Measuring gives these times; returns how often it was asked for."""
    asked: list[int] = []

    def instead(*args: object, **more: object) -> dict[Formats, float]:
        asked.append(1)
        return seconds

    monkeypatch.setattr(formats, "measure", instead)
    return asked


def test_every_candidate_is_timed_or_given_up_and_nothing_else_changes() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = measure(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES)
    assert CANDIDATES[0] in found
    assert set(found) <= set(CANDIDATES)
    assert all(seconds > 0 for seconds in found.values())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_slow_candidate_is_given_up_after_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1, 1, 2, 2, 3, 3, 4, 4, 100])
    monkeypatch.setattr(formats, "_clock", lambda device: next(clock))
    assert measure(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES[:2]) == {CANDIDATES[0]: 1.0}
    assert next(clock, None) is None


def test_a_later_candidate_must_win_by_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = CANDIDATES[:2]
    rigged(monkeypatch, {first: 1.0, second: 0.95})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="close") == first
    rigged(monkeypatch, {first: 1.0, second: 0.8})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="clear") == second


def test_the_first_answer_stays_for_this_network_and_machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first, second = CANDIDATES[:2]
    rigged(monkeypatch, {first: 1.0, second: 0.5})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="a") == second
    asked = rigged(monkeypatch, {first: 0.5, second: 1.0})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="a") == second
    assert asked == []
    for others in ({"machine": "b"}, {"size": (32, 32)}, {"model": Choice(name="wrn10_1")}):
        settings = {"model": SIXTEEN_WIDE, "size": (16, 16), "machine": "a", **others}
        assert fastest(device=CPU, among=CANDIDATES, **settings) == first
    assert len(asked) == 3
    assert len(json.loads(cache.read_text(encoding="utf-8"))) == 4


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}', '{"a": ["float99", "contiguous"]}'])
def test_a_damaged_cache_is_measured_anew(monkeypatch: pytest.MonkeyPatch, cache: Path, damage: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(damage, encoding="utf-8")
    rigged(monkeypatch, {CANDIDATES[0]: 1.0})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="a") == CANDIDATES[0]
    assert list(json.loads(cache.read_text(encoding="utf-8")).values()) == [list(CANDIDATES[0])]


def test_a_cache_that_cannot_be_written_costs_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    asked = rigged(monkeypatch, {CANDIDATES[0]: 1.0})
    for count in (1, 2):
        assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="a") == CANDIDATES[0]
        assert len(asked) == count


def test_what_the_settings_say_is_not_measured(monkeypatch: pytest.MonkeyPatch, tiny_config: Config) -> None:
    seen: list[list[Formats]] = []

    def instead(*args: object, among: list[Formats], **more: object) -> Formats:
        seen.append(list(among))
        return among[0]

    monkeypatch.setattr(machine, "fastest", instead)
    for units, precision, layout, expected in (
        (True, "auto", "auto", CANDIDATES),
        (False, "auto", "auto", [f for f in CANDIDATES if f.precision == "float32"]),
        (True, "bfloat16", "auto", [f for f in CANDIDATES if f.precision == "bfloat16"]),
        (False, "bfloat16", "contiguous", [Formats("bfloat16", "contiguous")]),
        (True, "auto", "contiguous", [f for f in CANDIDATES if f.memory_format == "contiguous"]),
    ):
        monkeypatch.setattr(machine, "has_fast_bfloat16", lambda device, units=units: units)
        resolved = machine.resolve(replace(tiny_config, precision=precision, memory_format=layout))
        assert seen.pop() == list(expected)
        assert (resolved.precision, resolved.memory_format) == expected[0]


def test_the_allocator_is_told_to_keep_memory_where_there_is_glibc() -> None:
    # Twice: it is a switch, and asking again does no harm.
    assert machine.keep_freed_memory() == machine.keep_freed_memory()


@pytest.mark.parametrize(("width", "damages"), [(4, True), (8, True), (15, True), (16, False)])
def test_a_format_that_would_damage_memory_is_not_tried(width: int, damages: bool) -> None:
    model = Choice(name="resnet10", options={"width": width})
    assert formats.damages_memory(build_network(model, 5), CPU) is damages
    if damages:
        measured = measure(model, (8, 8), device=CPU, among=CANDIDATES[1::2])
        assert set(measured) == {CANDIDATES[3]}


def test_a_format_that_would_damage_memory_is_refused_where_it_is_asked_for(tiny_config: Config) -> None:
    dataset, asked = load_data(tiny_config.data), replace(tiny_config, memory_format="channels_last")
    with pytest.raises(ConfigError, match=r"memory_format is 'channels_last'.*past the end.*auto or contiguous"):
        assemble(asked, dataset)
    assert assemble(replace(asked, model=SIXTEEN_WIDE), dataset).machine.channels_last
    assert not assemble(tiny_config, dataset).machine.channels_last
    # A run that was begun in it, before that was known, goes on.
    begun = assemble(asked, dataset, begun=True)
    assert (begun.machine.channels_last, begun.config.memory_format) == (False, "contiguous")


def test_a_format_left_open_is_one_in_which_the_second_network_is_safe_too(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Config
) -> None:
    monkeypatch.setattr(machine, "fastest", lambda *args, among, **more: among[0])
    dataset, open_ = load_data(tiny_config.data), replace(tiny_config, model=SIXTEEN_WIDE, memory_format="auto")
    for width, expected in ((16, "channels_last"), (8, "contiguous")):
        peer = Teacher(name="resnet10", options={"width": width})
        assert (
            assemble(replace(open_, method=Choice(name="dml"), teacher=peer), dataset).config.memory_format == expected
        )


# With fewer channels than 16 it crashes, where the processor has AVX-512.
LAYERS = """
import sys, torch
from torch import nn
torch.set_num_threads(2)
for channels in map(int, sys.argv[1:]):
    layer = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
    for batch in (31, 33, 7) * 4:
        for bfloat16 in (False, True):
            images = torch.randn(batch, channels, 32, 32).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                layer(images).float().square().sum().backward()
            [torch.randn(13 * size) for size in range(80)]
"""


def test_layers_that_are_let_in_leave_memory_whole() -> None:
    ended = subprocess.run([sys.executable, "-c", LAYERS, "16", "17", "24", "40"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_where_nothing_could_be_tried_the_last_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rigged(monkeypatch, {})
    assert fastest(SIXTEEN_WIDE, (16, 16), device=CPU, among=CANDIDATES, machine="none") == CANDIDATES[3]
