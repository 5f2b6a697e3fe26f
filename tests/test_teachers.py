"""A second network: trained first or taken from a run, kept with the student, and refused where it does not fit."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import assemble, building, exporting
from metadistiller.config import Choice, Config, Teacher
from metadistiller.engine.step import Job
from metadistiller.errors import CheckpointError, ConfigError, MetaDistillerError, Paused
from metadistiller.records import RunFolder, read_json
from metadistiller.settings import parse
from small_runs import Interrupted, interrupt_after, train

WIDE = {"width": 6}
TAUGHT = ("kd", "fitnet", "attention_transfer")


def student(config: Config, method: str = "kd", run: str | Path | None = None, **options: Any) -> Config:
    run = None if run is None else str(run)
    teacher = Teacher(name="resnet10", options=WIDE, run=run)
    return replace(config, method=Choice(name=method, options=options), teacher=teacher, epochs=2)


@pytest.fixture
def teacher(tiny_config: Config, tmp_path: Path) -> Path:
    """A finished run of the network that the students below want to be taught by."""
    config = replace(tiny_config, model=Choice(name="resnet10", options=WIDE), method=Choice(name="plain"), epochs=2)
    return train(config, tmp_path / "teacher-run")


def bits(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "results.csv", "evaluation.json")]


# Where a teacher comes from


@pytest.mark.parametrize("method", TAUGHT)
def test_a_teacher_trained_first_is_the_teacher_of_its_own_run(
    method: str, tiny_config: Config, teacher: Path, tmp_path: Path
) -> None:
    """Trained by the same command or before it: the same teacher, and the same student, to the bit."""
    first = train(student(tiny_config, method), tmp_path / "first")
    taken = train(student(tiny_config, method, run=teacher), tmp_path / "taken")
    assert bits(first / "teacher") == bits(teacher)
    assert bits(first) == bits(taken)
    (told,) = (event for event in RunFolder(taken).read_events() if event["event"] == "teacher")
    result = read_json(teacher / "result.json")
    assert {key: told[key] for key in ("network", "epochs", "seconds", "final")} == {
        key: result[key] for key in ("network", "epochs", "seconds", "final")
    }


def test_another_teacher_teaches_something_else(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    one = train(student(tiny_config, "kd", run=teacher), tmp_path / "one")
    config = replace(tiny_config, model=Choice(name="resnet10", options=WIDE), method=Choice(name="plain"), epochs=2)
    other_teacher = train(replace(config, seed=5), tmp_path / "other-teacher")
    two = train(student(tiny_config, "kd", run=other_teacher), tmp_path / "two")
    assert bits(one) != bits(two)


@pytest.mark.parametrize("updates", [2, 6, 8])
def test_whatever_is_interrupted_the_student_is_the_same(
    updates: int, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six updates are the teacher's: broken off within them, just after them, and among the student's."""
    config = replace(student(tiny_config, "fitnet", hint_epochs=1), checkpoint_every_steps=1)
    whole = train(config, tmp_path / "whole")
    interrupt_after(monkeypatch, updates)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "broken")
    monkeypatch.undo()
    assemble.resume(tmp_path / "broken", quiet=True)
    assert bits(tmp_path / "broken") == bits(whole)


@pytest.mark.parametrize("method", [*TAUGHT, "dml"])
def test_every_method_with_a_second_network_resumes_bitwise(
    method: str, tiny_config: Config, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = student(tiny_config, method, run=None if method == "dml" else teacher)
    config = replace(config, checkpoint_every_steps=1)
    whole = train(config, tmp_path / "whole")
    interrupt_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "broken")
    monkeypatch.undo()
    # The run keeps its teacher: nobody else's folder is needed to go on.
    shutil.rmtree(teacher)
    assemble.resume(tmp_path / "broken", quiet=True)
    assert bits(tmp_path / "broken") == bits(whole)


def test_a_student_is_evaluated_and_exported_without_its_teacher(
    tiny_config: Config, teacher: Path, tmp_path: Path
) -> None:
    out = train(student(tiny_config, "fitnet", run=teacher), tmp_path / "run")
    (out / "teacher.safetensors").unlink()
    shutil.rmtree(teacher)
    _, found = assemble.evaluate_run(out)
    assert found.final == read_json(out / "result.json")["final"]
    exporting.export(out)


def test_a_peer_is_fresh_and_not_the_student(tiny_config: Config) -> None:
    config = replace(tiny_config, method=Choice(name="dml"))
    method = building.build_method(config, building.load_data(config.data))
    both = [dict(player.module.named_parameters()) for player in method.players().values()]
    assert both[0].keys() == both[1].keys()
    assert not all((both[0][name] == both[1][name]).all() for name in both[0])


# What does not fit is refused before there is a folder


def refused(config: Config, tmp_path: Path, kind: type[MetaDistillerError], *says: str) -> None:
    with pytest.raises(kind) as caught:
        train(config, tmp_path / "out")
    for text in says:
        assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_other_images(tiny_config: Config, teacher: Path, tmp_path: Path, photos: Path) -> None:
    taught = student(tiny_config, run=teacher)
    folder = Choice(name="folder", options={"root": str(photos), "size": 16})
    refused(replace(taught, data=folder, batch_size=4), tmp_path, ConfigError, "10 classes (0, 1, 2 ...)", "2 classes")


def test_a_teacher_of_another_size_of_images_or_another_split(
    tiny_config: Config, tmp_path: Path, photos: Path
) -> None:
    def data(**options: Any) -> Choice:
        return Choice(name="folder", options={"root": str(photos), "val_fraction": 0.5, **options})

    config = replace(tiny_config, model=Choice(name="resnet10", options=WIDE), method=Choice(name="plain"))
    config = replace(config, data=data(size=16), batch_size=4, epochs=2)
    taught = student(config, run=train(config, tmp_path / "t"))
    size = replace(taught, data=data(size=24))
    refused(size, tmp_path, ConfigError, "images of 16x16 pixels", "images of 24x24 pixels", "--teacher.model")
    split = replace(taught, data=data(size=16, split_seed=1))
    refused(split, tmp_path, ConfigError, "trained on other images", "their mean is")


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("kd", None, "kd learns from a teacher; give --teacher RUN"),
        ("plain", {"name": "resnet10"}, "plain has no second network"),
        ("dml", {"name": "resnet10", "run": "runs/x"}, "give --teacher.model resnet10 instead of --teacher runs/x"),
        ("kd", {"name": "resnet10", "run": "runs/none"}, "runs/none is no run folder"),
    ],
)
def test_a_teacher_and_a_method_that_do_not_go_together(
    method: str, given: dict[str, str] | None, says: str, tiny_config: Config, tmp_path: Path
) -> None:
    config = replace(tiny_config, method=Choice(name=method), teacher=Teacher(**given) if given else None)
    refused(config, tmp_path, MetaDistillerError, says)


def test_a_stage_that_is_not_there(tiny_config: Config, tmp_path: Path) -> None:
    """Found before a teacher is trained for it."""
    for option in ("hint_stage", "teacher_stage"):
        refused(student(tiny_config, "fitnet", **{option: 5}), tmp_path, ConfigError, f"method.{option} is 5", "1 to 4")


def test_a_teacher_that_is_not_finished(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    (teacher / "result.json").unlink()
    refused(student(tiny_config, run=teacher), tmp_path, CheckpointError, "is not finished", "metadistiller resume")


def test_a_teacher_without_its_network(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    (teacher / "model.safetensors").unlink()
    refused(student(tiny_config, run=teacher), tmp_path, CheckpointError, "has no model.safetensors")


def test_a_file_that_holds_another_network(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    config = student(tiny_config, run=teacher)
    wrong = replace(config, teacher=replace(config.teacher, options={"width": 7}))
    refused(wrong, tmp_path, CheckpointError, "'width': 6", "'width': 7")


# The words that say it


def test_the_run_of_a_teacher_names_its_network(teacher: Path) -> None:
    found = parse(["digits", "--method", "kd", "--teacher", str(teacher)], command="c").config.teacher
    assert found == Teacher(name="resnet10", options={"stem": "cifar", "width": 6}, run=str(teacher))


def test_a_teacher_by_its_network(teacher: Path) -> None:
    words = ["digits", "--method", "kd", "--teacher.model", "resnet18", "--teacher.width=8"]
    found = parse(words, command="c").config.teacher
    assert found == Teacher(name="resnet18", options={"stem": "cifar", "width": 8})
    # A later one takes the place of an earlier one, with everything that was said of it.
    again = parse([*words, "--teacher", str(teacher)], command="c").config.teacher
    assert again is not None
    assert (again.name, again.run) == ("resnet10", str(teacher))
    assert parse([*words, "--teacher", "null"], command="c").config.teacher is None


def test_a_config_with_a_teacher_goes_out_and_in(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    for config in (student(tiny_config), student(tiny_config, run=teacher), tiny_config):
        written = building.written_out(config)
        folder = RunFolder.create(tmp_path / "a", written.as_dict())
        assert assemble.load_config(folder) == written
        shutil.rmtree(folder.path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--teacher", "resnet18"], "no such run folder"),
        (["--teacher.width", "8"], "of which teacher?"),
        (["--teacher.model", "resnet81"], "did you mean 'resnet18'?"),
        (["--teacher.model", "resnet18", "--teacher.widht", "8"], "did you mean '--teacher.width'?"),
    ],
)
def test_words_that_name_no_teacher(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError if "mean" not in says else MetaDistillerError) as caught:
        parse(["digits", "--method", "kd", *words], command="c")
    assert says in str(caught.value)


# Nothing is lost, and nothing is mixed up


class After:
    """Says stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("asked", ["stop", "interrupted"])
def test_a_pause_while_the_teacher_is_trained_names_the_student_s_run(
    asked: str, tiny_config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Paused, match="while the teacher was being trained") as caught:
        assemble.train(student(tiny_config), out, quiet=True, **{asked: After(1)})
    assert f"'metadistiller resume {out}'" in str(caught.value)
    with pytest.raises(CheckpointError, match=f"'metadistiller resume {out}' trains it"):
        assemble.evaluate_run(out)
    assemble.resume(out, quiet=True)
    assert RunFolder(out).finished


def test_a_teacher_that_was_exchanged_is_refused(tiny_config: Config, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Paused):
        assemble.train(student(tiny_config, run=teacher), out, quiet=True, stop=After(1))
    other = replace(tiny_config, model=Choice(name="resnet10", options=WIDE), method=Choice(name="plain"), seed=9)
    another = train(replace(other, epochs=1), tmp_path / "another")
    shutil.copyfile(another / "model.safetensors", out / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="not the teacher that this run began with"):
        assemble.resume(out, quiet=True)
    (out / "teacher.safetensors").unlink()
    assemble.resume(out, quiet=True)


def test_an_interruption_while_the_teacher_is_kept_loses_no_record(
    tiny_config: Config, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **more: Any) -> None:
        raise Interrupted

    out = tmp_path / "run"
    monkeypatch.setattr("os.link", broken)
    with pytest.raises(Interrupted):
        train(student(tiny_config, run=teacher), out)
    monkeypatch.undo()
    assert not (out / "teacher.safetensors").exists()
    assemble.resume(out, quiet=True)
    events = [event for event in RunFolder(out).read_events() if event["event"] == "teacher"]
    assert events[-1]["final"] == read_json(teacher / "result.json")["final"]
    assert events[-1]["device"].startswith("cpu")


def test_one_job_is_in_memory_while_a_student_is_trained(
    tiny_config: Config, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was made to check the settings is gone by then."""
    counts: list[int] = []
    whole = assemble.train_job

    def jobs() -> int:
        gc.collect()
        # Not isinstance, which asks odd objects for attributes that warn.
        return sum(type(thing) is Job for thing in gc.get_objects())

    def counting(*args: Any, **more: Any) -> Any:
        counts.append(jobs())
        return whole(*args, **more)

    monkeypatch.setattr(assemble, "train_job", counting)
    before = jobs()
    train(student(tiny_config, run=teacher), tmp_path / "run")
    assert counts == [before + 1]
