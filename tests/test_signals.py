"""Whoever asks a command to stop finds a run that is saved, and that goes on to the same bits."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metadistiller import apart
from metadistiller.apart import train_apart
from metadistiller.building import written_out
from metadistiller.cli import main
from metadistiller.config import Config
from metadistiller.engine.machine import resolve
from metadistiller.errors import ConfigError, Paused, RunError
from metadistiller.records import RunFolder
from metadistiller.signals import ASKING, WITH_PARENT, Signals

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = (
    *("--data.train_per_class=4", "--model.width=4", "--batch_size=16", "--eval_batch_size=400", "--threads=1"),
    *("--precision=float32", "--memory_format=contiguous", "--quiet"),
)


@pytest.fixture
def interruptions() -> ModuleType:
    return importlib.import_module("interruptions")


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Whoever started the tests may have told them to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# By itself


def under_way(*numbers: signal.Signals, asked: bool, error: type[Exception] | None = None) -> bool:
    """A command that gets signals before or after it has asked, and ends with an error, or with the answer."""
    with Signals() as signals:
        if asked:
            assert not signals()
        for number in numbers:
            # Imports may take whatever is raised inside them for something else.
            with contextlib.suppress(Paused):
                signal.raise_signal(number)
                assert asked, "not reached"
        if error is not None:
            raise error("an error")
        return signals()


@pytest.mark.parametrize("number", ASKING)
def test_before_the_first_question_a_signal_ends_the_block(number: signal.Signals) -> None:
    def run() -> None:
        with Signals():
            signal.raise_signal(number)
            raise AssertionError("not reached")

    with pytest.raises(Paused, match=rf"^{number.name}: stopped before training had begun.*--auto_resume"):
        run()


@pytest.mark.parametrize("number", ASKING)
def test_after_it_a_signal_is_the_answer_to_the_next(number: signal.Signals) -> None:
    assert not under_way(asked=True)
    assert under_way(number, asked=True)
    with pytest.raises(Paused, match=rf"^{number.name}: an error$"):
        under_way(number, asked=True, error=Paused)


def test_what_an_import_makes_of_it_is_still_a_pause_and_what_swallows_it_does_not_keep_it() -> None:
    assert under_way(signal.SIGTERM, asked=False)
    with pytest.raises(Paused, match=r"^SIGTERM: stopped before training had begun"):
        under_way(signal.SIGTERM, asked=False, error=ImportError)


@pytest.mark.parametrize("asked", [True, False])
def test_the_second_ctrl_c_stops_at_once_and_no_other_second_signal_does(asked: bool) -> None:
    assert under_way(signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, asked=asked)
    with pytest.raises(KeyboardInterrupt):
        under_way(signal.SIGINT, signal.SIGTERM, signal.SIGINT, asked=asked)


def test_handlers_are_put_back_and_what_is_ignored_stays_so() -> None:
    before = [signal.getsignal(number) for number in ASKING]
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Signals() as signals:
            assert signal.getsignal(signal.SIGTERM) == signals._note
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, ignored)
    assert [signal.getsignal(number) for number in ASKING] == before


def test_another_error_passes_and_another_thread_installs_nothing() -> None:
    for asked in (True, False):
        with pytest.raises(ConfigError, match=r"^an error$"):
            under_way(asked=asked, error=ConfigError)
    found = []

    def enter() -> None:
        with Signals() as signals:
            found.append((signals(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


# Commands


def test_signals_at_every_place_leave_a_run_that_ends_with_the_same_bits(
    interruptions: ModuleType, tmp_path: Path
) -> None:
    count = len(interruptions.PLACES) + 1
    assert interruptions.signals(count, tmp_path) == (count, count), (tmp_path / "log.txt").read_text()


def test_a_killed_run_ends_with_the_same_bits(interruptions: ModuleType, tmp_path: Path) -> None:
    assert interruptions.kills(4, tmp_path) == (4, 4), (tmp_path / "log.txt").read_text()


def test_a_second_ctrl_c_ends_a_run_with_130(interruptions: ModuleType, tmp_path: Path) -> None:
    words = interruptions.words_of(tmp_path)
    with interruptions.Trials(tmp_path) as trials:
        assert trials.run(words, tmp_path / "run", [signal.SIGINT] * 2, place=("student", 1)) == 130
        assert trials.run(words, tmp_path / "run") == 0
    assert "interrupted; 'metadistiller resume RUN' goes on" in trials.log.read_text()


def wait_for(there: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_while_torch_is_imported(tmp_path: Path) -> None:
    """The module is read line by line, so the first print of a file that Python opens says that it is under way."""
    process = subprocess.Popen(
        [sys.executable, "-v", "-m", "metadistiller", "train", *TINY, f"--out={tmp_path / 'run'}"],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "torch/" in line:
            break
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3
    assert "SIGTERM: stopped before training had begun" in said
    assert not (tmp_path / "run").exists()


def begun_comparison(out: Path, **how: Any) -> "tuple[subprocess.Popen[str], RunFolder]":
    """A comparison of one long run that has begun to train, and the run's folder."""
    words = ["compare", *TINY[:-1], "--epochs=2000", "--evaluate_every=2000", "--methods=plain", "--seeds=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "metadistiller", *words, f"--out={out}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        **how,
    )
    run = RunFolder(out / "plain" / "s0")
    wait_for(run.results.exists, process)
    return process, run


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_comparison_hands_the_request_on_and_goes_on_later(whole_group: bool, tmp_path: Path) -> None:
    """Ctrl-C at a terminal is for the whole group of processes, a scheduler's SIGTERM for the first of them."""
    process, run = begun_comparison(
        tmp_path / "all",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    name = "SIGINT" if whole_group else "SIGTERM"
    assert said == f"{name}: stopped in time, while {run} was being trained; the same command goes on from there\n"
    paused = list(run.read_events())[-1]
    assert paused["event"] == "pause"
    assert paused["epoch"] > 0
    # Nobody trains there any more.
    with run.locked():
        assert not run.finished


def test_a_comparison_that_is_killed_leaves_no_run_training(tmp_path: Path) -> None:
    process, run = begun_comparison(tmp_path / "all", start_new_session=True)
    try:
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 30
        while run.is_trained():
            assert time.monotonic() < deadline, "still training"
            time.sleep(0.1)
    finally:
        # Whoever is left of the session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    paused = list(run.read_events())[-1]
    assert (paused["event"], run.finished) == ("pause", False)
    assert main(["resume", str(run), "--quiet", "--budget=0.1s"]) == 3
    resumed = [event for event in run.read_events() if event["event"] == "resume"]
    assert [(event["epoch"], event["step"]) for event in resumed] == [(paused["epoch"], paused["step"])]


def test_the_end_of_the_parent_is_heard_where_signals_are_ignored_and_by_no_grandchild() -> None:
    script = """
import os, signal, time
from metadistiller.signals import WITH_PARENT, Signals, stop_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Signals() as signals:
    stop_with_parent(signals)
    print(WITH_PARENT in os.environ, signals(), flush=True)
    while not signals():
        time.sleep(0.01)
"""
    environment = {**os.environ, WITH_PARENT: "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "False False\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_run_that_nobody_holds_needs_no_standard_input(tmp_path: Path) -> None:
    words = ["train", *TINY, "--epochs=1", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "metadistiller", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").finished


def test_a_run_apart_is_asked_once(tiny_config: Config, tmp_path: Path) -> None:
    config = resolve(written_out(tiny_config))
    with pytest.raises(Paused, match="the same command goes on from there"):
        train_apart(RunFolder(tmp_path / "run"), config, interrupted=lambda: True)
    train_apart(RunFolder(tmp_path / "run"), config)
    assert RunFolder(tmp_path / "run").finished


def test_a_run_apart_waits_for_whoever_still_saves_there(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(written_out(tiny_config))
    run = RunFolder.create(tmp_path / "run", config.as_dict())
    with run.locked(), monkeypatch.context() as patch:
        patch.setattr(apart, "SECONDS_TO_SAVE", 0.1)
        with pytest.raises(RunError, match="is being trained by another process"):
            train_apart(run, config)
    with contextlib.ExitStack() as saving:
        saving.enter_context(run.locked())
        # It is over while this waits, and only then.
        monkeypatch.setattr("metadistiller.apart.time.sleep", lambda seconds: saving.close())
        train_apart(run, config)
    assert run.finished


def test_a_second_ctrl_c_leaves_no_run_apart_behind(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def begin(*args: Any, **options: Any) -> "subprocess.Popen[str]":
        begun.append(popen(*args, **options))
        return begun[0]

    def interrupted() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", begin)
    with pytest.raises(KeyboardInterrupt):
        train_apart(RunFolder(tmp_path / "run"), resolve(written_out(tiny_config)), interrupted=interrupted)
    assert begun[0].returncode == -signal.SIGKILL


def test_the_command_says_what_came_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metadistiller.engine.step import Stepper

    whole = Stepper.step

    def step(self: Stepper, number: int) -> None:
        whole(self, number)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Stepper, "step", step)
    assert main(["train", *TINY, "--epochs=2", f"--out={tmp_path / 'run'}"]) == 3
    assert capsys.readouterr().err == (
        "SIGUSR1: stopped in time, after epoch 0 of 2 and 1 steps; all is saved, and "
        f"'metadistiller resume {tmp_path / 'run'}' goes on from there\n"
    )
