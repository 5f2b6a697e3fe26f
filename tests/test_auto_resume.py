"""The same command again goes on with the run that is there, and with no other."""

from dataclasses import replace
from pathlib import Path

import pytest

from metadistiller import assemble
from metadistiller.cli import main
from metadistiller.config import Choice, Config
from metadistiller.engine.checkpoint import list_checkpoints
from metadistiller.errors import ConfigError, Paused
from metadistiller.records import RunFolder

Captured = pytest.CaptureFixture[str]
WORDS = (
    *("--data.train_per_class=4", "--model.width=4", "--epochs=2", "--batch_size=16", "--eval_batch_size=900"),
    *("--threads=1", "--precision=float32", "--memory_format=contiguous", "--method=plain"),
)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than these runs."""
    monkeypatch.setattr(assemble.report, "write", lambda folder: (Path(folder) / "report.html").touch())


class After:
    """Says stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def bits(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "results.csv", "evaluation.json")]


@pytest.mark.parametrize("option", ["--auto_resume", "--auto-resume"])
def test_the_same_command_until_it_is_done(option: str, tmp_path: Path, capsys: Captured) -> None:
    run = tmp_path / "run"
    words = ["train", *WORDS, option, "--out", str(run)]
    codes = [main([*words, "--budget=0.001s"])]
    while codes[-1] == 3:
        codes.append(main([*words, "--budget=0.001s"]))
    # Six steps, the last of each epoch together with what comes after it.
    assert codes == [3, 3, 3, 3, 3, 0]
    whole = tmp_path / "whole"
    assert main(["train", *WORDS, "--out", str(whole)]) == 0
    assert bits(run) == bits(whole)
    capsys.readouterr()
    before = (run / "events.jsonl").read_bytes()
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == f"{run} was finished before, nothing was left to train\n"
    assert out.startswith("resnet10, plain, digits: accuracy in percent of ")
    assert out.splitlines()[-1] == str(run)
    assert (run / "events.jsonl").read_bytes() == before


def test_other_settings_are_named_with_both_values(tiny_config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Paused):
        assemble.train(tiny_config, run, quiet=True, stop=After(0))
    other = replace(
        tiny_config,
        epochs=4,
        method=replace(tiny_config.method, options={**tiny_config.method.options, "alpha": 0.25}),
        optim=replace(tiny_config.optim, clip_norm=None, lr=0.06),
        precision="bfloat16",
    )
    with pytest.raises(ConfigError) as caught:
        assemble.train(other, run, auto_resume=True)
    told = str(caught.value)
    assert told.startswith(f"{run} holds a run with ")
    for text in ("method.alpha=0.5 (asked for: 0.25)", "epochs=3 (asked for: 4)", "precision='float32' (asked for: "):
        assert text in told
    assert "optim.lr=0.05 (asked for: 0.06)" in told
    assert told.count("asked for") == 4
    with pytest.raises(ConfigError, match=r"method=\{'name': 'metadistiller'.*asked for: \{'name': 'dsn'"):
        assemble.train(replace(tiny_config, method=Choice(name="dsn")), run, auto_resume=True)


def test_what_is_left_open_is_as_the_run_has_it(tiny_config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Paused):
        assemble.train(tiny_config, run, quiet=True, stop=After(0))
    left_open = replace(tiny_config, device="auto", precision="auto", memory_format="auto", threads=None)
    with pytest.raises(Paused):
        assemble.train(left_open, run, auto_resume=True, quiet=True, stop=After(0))
    assert [event["event"] for event in RunFolder(run).read_events()] == ["start", "pause", "resume", "pause"]


def test_without_a_folder_the_first_default_one_with_these_settings_is_taken(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(tiny_config, method=Choice(name="plain"), epochs=1)
    longer = replace(config, epochs=2)
    first = assemble.train(config, quiet=True, auto_resume=True).folder
    with pytest.raises(Paused):
        assemble.train(longer, quiet=True, auto_resume=True, stop=After(0))
    second = first.with_name(f"{first.name}-2")
    assert RunFolder(second).read_config()["epochs"] == 2
    assert assemble.train(longer, quiet=True, auto_resume=True).folder == second
    found = assemble.train(config, quiet=True, auto_resume=True)
    assert (found.folder, found.before) == (first, True)
    # Damaged settings are nobody's, and without the option a new folder is taken as ever.
    (first / "config.yaml").write_text("a: [")
    assert assemble.train(config, quiet=True, auto_resume=True).folder == first.with_name(f"{first.name}-3")
    assert assemble.train(config, quiet=True).folder == first.with_name(f"{first.name}-4")


def test_a_folder_of_which_only_the_beginning_is_there(tiny_config: Config, tmp_path: Path) -> None:
    """Killed while config.yaml was written, and after it: both begin, and end with the bits of any other run."""
    config = replace(tiny_config, method=Choice(name="plain"), epochs=1)
    whole = assemble.train(config, tmp_path / "whole", quiet=True).folder
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml.tmp").write_text("data:\n  na")
    assert bits(assemble.train(config, half, quiet=True, auto_resume=True).folder) == bits(whole)
    begun = RunFolder.create(tmp_path / "begun", RunFolder(whole).read_config())
    assert bits(assemble.train(config, begun.path, quiet=True, auto_resume=True).folder) == bits(whole)


def test_what_is_no_run_is_not_written_over(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        assemble.train(tiny_config, tmp_path, quiet=True, auto_resume=True)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    config = replace(tiny_config, method=Choice(name="plain"), epochs=2, checkpoint_every_steps=1)
    whole = assemble.train(config, tmp_path / "whole", quiet=True).folder
    run = tmp_path / "run"
    with pytest.raises(Paused):
        assemble.train(config, run, quiet=True, stop=After(3))
    newest = list_checkpoints(run / "checkpoints")[-1]
    (newest / "optimizers.safetensors").write_bytes(b"")
    assemble.train(config, run, auto_resume=True)
    assert f"checkpoint refused: {newest / 'optimizers.safetensors'} is damaged" in capsys.readouterr().out
    assert bits(run) == bits(whole)
