"""A stopwatch counts every second once, and what several sittings found adds up."""

from collections.abc import Callable
from typing import Any

import pytest

from metadistiller import timing
from metadistiller.timing import OTHER, Stopwatch, keeping, profile_of, timed

Clock = Callable[[float], None]


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A function that lets so many seconds pass."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_an_inner_part_stops_the_outer_one(spend: Clock) -> None:
    watch = Stopwatch()
    with keeping(watch), timed("outer"):
        spend(1)
        for _ in range(2):
            with timed("inner"):
                spend(2)
                with timed("outer"):
                    spend(4)
        spend(8)
    spend(16)
    assert watch.read() == {"outer": {"seconds": 17, "calls": 3}, "inner": {"seconds": 4, "calls": 2}}


def test_what_is_read_meanwhile_is_all_until_then(spend: Clock) -> None:
    watch = Stopwatch()
    with watch.part("a"):
        spend(1)
        with watch.part("b"):
            spend(2)
            assert watch.read() == {"a": {"seconds": 1, "calls": 1}, "b": {"seconds": 2, "calls": 1}}
            spend(3)
    assert watch.seconds == {"a": 1, "b": 5}


def test_a_part_that_fails_has_its_time_and_ends(spend: Clock) -> None:
    def spend_and_fail() -> None:
        spend(1)
        raise OverflowError("too long")

    watch = Stopwatch()
    with keeping(watch), timed("outer"):
        with pytest.raises(OverflowError, match="too long"), timed("inner"):
            spend_and_fail()
        spend(2)
    assert watch.seconds == {"outer": 2, "inner": 1}


def test_the_device_is_waited_for_at_each_change(spend: Clock) -> None:
    """What it still had to do belongs to the part that is left."""
    watch = Stopwatch(lambda: spend(1))
    with watch.part("a"), watch.part("b"):
        pass
    assert watch.seconds == {"a": 2, "b": 1}


def test_without_a_stopwatch_nothing_is_told() -> None:
    watch = Stopwatch()
    with keeping(watch), keeping(None), timed("a"):
        pass
    with timed("a"):
        pass
    assert watch.seconds == {}


def event(**parts: tuple[float, int]) -> dict[str, Any]:
    told = {name: {"seconds": seconds, "calls": calls} for name, (seconds, calls) in parts.items()}
    return {"event": "profile", "parts": told}


def test_sittings_add_up() -> None:
    events = [{"event": "start"}, event(other=(5, 1), a=(1, 10), b=(2, 1)), {"event": "resume"}, event(a=(2, 5))]
    found = profile_of(events)
    assert found is not None
    assert [(part.name, part.seconds, part.calls) for part in found.parts] == [("a", 3, 15), ("b", 2, 1), (OTHER, 5, 1)]
    assert found.seconds == 10
    assert [found.share(part) for part in found.parts] == [30, 20, 50]
    assert found.cells(found.parts[0]) == ["a", "3.00", "30.0", "15", "200.00"]
    assert found.cells(found.parts[2]) == [OTHER, "5.00", "50.0", "", ""]
    assert found.coverage(99) == "over 10.0 s"
    partly = profile_of([*events, {"event": "resume"}])
    assert partly is not None
    assert partly.coverage(1234) == "over 10.0 s of 1,234.0 s, in 2 of 3 sittings"


def test_of_nothing_nothing_is_told() -> None:
    assert profile_of([]) is None
    assert profile_of([{"event": "start"}, {"event": "finish"}]) is None


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_profile_of_no_time_is_damaged(seconds: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        profile_of([event(a=(seconds, 1))])
