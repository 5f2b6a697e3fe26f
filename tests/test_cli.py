"""The command line: exit codes, help, what inspect and list say, and errors in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metadistiller import __version__, cli
from metadistiller.cli import COMMANDS, main
from metadistiller.config import Choice
from metadistiller.errors import CheckpointError, MetaDistillerError, UnknownName
from metadistiller.inspection import inspect
from metadistiller.lookup import endless, table
from metadistiller.recipes import recipes

Captured = pytest.CaptureFixture[str]
PACKAGES = {
    "networks": "metadistiller.nn.backbones",
    "methods": "metadistiller.methods",
    "data": "metadistiller.data",
}


def fails(words: list[str], capsys: Captured) -> tuple[int, str]:
    """Exit code and the one line on standard error."""
    code = main(words)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return code, err


def json_of(words: list[str], capsys: Captured) -> dict[str, object]:
    assert main([*words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


# Help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_names_every_command(words: list[str], capsys: Captured) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, function in COMMANDS.items():
        assert [line for line in lines if line.split()[:1] == [name]]
        assert function.__doc__
    trains = {"train", "resume", "compare", "reproduce"}
    assert set(COMMANDS) == {
        *trains,
        "evaluate",
        "inspect",
        "list",
        "export",
        "push",
        "report",
        "figure3",
        "predict",
        "check",
        "app",
        "calibrate",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"metadistiller {command}" in capsys.readouterr().out


def test_the_help_of_train_shows_the_options_of_what_was_named(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", "dsn", "--help"])
    out = capsys.readouterr().out
    assert "--method.exit_weight" in out
    assert "--method.alpha" not in out
    assert "--out" in out
    assert "--auto_resume" in out


def test_the_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metadistiller {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"]])
def test_help_version_and_a_slip_do_not_wait_for_torch(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from metadistiller.cli import main\n"
        f"main({words!r})\n"
        "print(sorted({'torch', 'torchvision', 'jsonargparse', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "metadistiller", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr


# inspect


def test_inspect_as_json(capsys: Captured) -> None:
    found = json_of(["inspect", "resnet18"], capsys)
    assert (found["parameters"], found["macs"]) == (11_220_132, 555_468_800)
    assert found["stages"] == [
        {"channels": 64, "height": 32, "width": 32},
        {"channels": 128, "height": 16, "width": 16},
        {"channels": 256, "height": 8, "width": 8},
        {"channels": 512, "height": 4, "width": 4},
    ]
    assert found["exits"] == {"design": "bottleneck", "parameters": 1_791_020, "macs": 39_999_488}
    assert found["generator"] == {"width": "mirror", "parameters": 3_775_340, "macs": 295_852_032}
    assert (found["network"], found["classes"], found["size"]) == ("resnet18", 100, [32, 32])


def test_inspect_with_classes_and_size(capsys: Captured) -> None:
    hundred = json_of(["inspect", "resnet10"], capsys)
    ten = json_of(["inspect", "resnet10", "--classes", "10", "--size=64"], capsys)
    # 90 classes less: 90 rows of 512 weights and a bias.
    assert hundred["parameters"] - ten["parameters"] == 90 * 513  # type: ignore[operator]
    # Four times the pixels everywhere but in the linear layer.
    assert ten["macs"] - 10 * 512 == 4 * (hundred["macs"] - 100 * 512)  # type: ignore[operator]
    assert ten["stages"][-1] == {"channels": 512, "height": 8, "width": 8}  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "options", "width"),
    [
        (["--stem", "imagenet", "--size", "64"], {"stem": "imagenet"}, "mirror"),
        (["--width", "8"], {"width": 8}, "mirror"),
        (["--generator", "64"], {}, 64),
    ],
)
def test_inspect_with_options_of_the_network(
    words: list[str], options: dict[str, object], width: int | str, capsys: Captured
) -> None:
    size = (64, 64) if "--size" in words else (32, 32)
    expected = inspect(Choice(name="resnet10", options=options), size=size, generator_width=width)  # type: ignore[arg-type]
    found = json_of(["inspect", "resnet10", *words], capsys)
    assert found == json.loads(json.dumps(expected))
    assert found != json_of(["inspect", "resnet10"], capsys)


def test_inspect_as_a_table(capsys: Captured) -> None:
    assert main(["inspect", "wrn16_1"]) == 0
    out = capsys.readouterr().out
    for text in ("180,916", "26,663,168", "21,512", "51,416", "16 x 32 x 32", "64 x 8 x 8", "100 classes"):
        assert text in out
    assert "exits (" not in out


def test_inspect_says_of_which_design_unusual_exits_are(capsys: Captured) -> None:
    assert main(["inspect", "vgg11_bn", "--width", "8"]) == 0
    assert "exits (linear)" in capsys.readouterr().out


def test_inspect_takes_a_width_that_is_a_factor(capsys: Captured) -> None:
    found = json_of(["inspect", "mobilenet_v2", "--width", "0.5"], capsys)
    assert [stage["channels"] for stage in found["stages"]] == [16, 16, 48, 160]  # type: ignore[attr-defined]
    code, err = fails(["inspect", "mobilenet_v2", "--width", "half"], capsys)
    assert code == 2
    assert "invalid number value: 'half'" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resnet81"], "unknown network 'resnet81'; did you mean 'resnet18'"),
        (["resnet10", "--size", "4"], "images of 4x4 pixels are too small"),
        (["resnet10", "--size", "x"], "invalid int value: 'x'"),
        (["resnet10", "--classes", "1"], "--classes is 1"),
        (["resnet10", "--width", "0"], "model.width is 0"),
        (["wrn16_1", "--stem", "cifar"], "unknown option of wrn16_1 'stem'"),
        (["resnet10", "--generator", "wide"], "--generator is 'wide'; take mirror"),
        (["resnet10", "--generator", "0"], "take mirror"),
        (["resnet10", "--generator", "²"], "take mirror"),
        (["resnet10", "--jsn"], "unknown option '--jsn'; did you mean '--json'"),
        (["resnet10", "wrn16_1"], "'wrn16_1' is one word too many"),
        ([], "required: name"),
        (["wrn17_1"], "take 6 n + 4"),
    ],
)
def test_inspect_refuses(words: list[str], told: str, capsys: Captured) -> None:
    code, err = fails(["inspect", *words], capsys)
    assert code == 2
    assert told in err


# list


def test_list_names_every_member_with_its_summary(capsys: Captured) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [*(f"{what}:" for what in PACKAGES), "recipes:"]
    for package in PACKAGES.values():
        for name, member in table(package).items():
            assert [line for line in lines if line.split(maxsplit=1) == [name, member.summary]]
    for name, make in recipes().items():
        assert [line for line in lines if line.split(maxsplit=1) == [name, (make.__doc__ or "").splitlines()[0]]]


@pytest.mark.parametrize("what", [*PACKAGES, "recipes"])
def test_list_one_family(what: str, capsys: Captured) -> None:
    assert main(["list", what]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == f"{what}:"
    names = [*table(PACKAGES[what]), *endless(PACKAGES[what])] if what in PACKAGES else [*recipes()]
    assert [line.split()[0] for line in lines] == names


def test_list_says_how_endless_names_are_made(capsys: Captured) -> None:
    assert main(["list", "networks"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {made} " in out for made in ("timm/ARCHITECTURE", "torchvision/ARCHITECTURE", "wrnDEPTH_WIDTH"))


# Where the time goes


TINY = (
    *("--data.train_per_class", "4", "--model.width", "4", "--epochs", "2", "--batch_size", "16", "--threads", "1"),
    *("--precision", "float32", "--memory_format", "contiguous", "--eval_batch_size", "400"),
)


@pytest.mark.parametrize("asked", [True, False])
def test_a_profile_is_shown_where_it_was_asked_for(asked: bool, tmp_path: Path, capsys: Captured) -> None:
    run = tmp_path / "run"
    assert main(["train", *TINY, "--method", "plain", *(["--profile"] if asked else []), "--out", str(run)]) == 0
    out = capsys.readouterr().out
    table = out.partition("where the time went, over ")[2]
    for text in ("share, %", "ms a call", "data", "student", "evaluation", "checkpoints", "other"):
        assert (text in table) == asked
    assert out.splitlines()[-1] == str(run)
    assert ("Where the time went" in (run / "report.html").read_text(encoding="utf-8")) == asked
    assert ('"profile"' in (run / "events.jsonl").read_text(encoding="utf-8")) == asked
    assert "profile" not in (run / "config.yaml").read_text(encoding="utf-8")


def test_a_profile_goes_on_where_the_run_does(tmp_path: Path, capsys: Captured) -> None:
    run = str(tmp_path / "run")
    assert main(["train", *TINY, "--profile", "--quiet", "--budget", "0.01s", "--out", run]) == 3
    assert capsys.readouterr().out == ""
    assert main(["resume", run, "--profile"]) == 0
    title, table = capsys.readouterr().out.partition("where the time went, over ")[2].split("\n", maxsplit=1)
    assert "sittings" not in title
    assert "forward-mode" in table


# Requests that cannot be meant: 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["evaluat"], "did you mean 'evaluate'?"),
        (["--epochs", "3"], "unknown command '--epochs'"),
        (["list", "nets"], "invalid choice: 'nets'"),
        (["list", "networks", "x"], "'x' is one word too many"),
        (["train", "--epochs", "0"], "epochs is 0"),
        (["train", "--epocs", "3"], "did you mean '--epochs'?"),
        (["train", "cifra10"], "unknown recipe 'cifra10'"),
        (["train", "--optim.lr", "fast"], "optim.lr"),
        (["resume"], "required: run"),
        (["resume", "a", "--epochs", "3"], "unknown option '--epochs'"),
        (["evaluate", "nowhere", "--ensemble", "mean"], "ensemble is 'mean'"),
        (["export", "nowhere", "--format", "onx"], "unknown export format 'onx'; did you mean 'onnx'"),
        (["compare", "--seeds", "0"], "--seeds is 0"),
        (["compare", "--methods", ""], "--methods names none"),
        (["compare", "--methods", "plain,dns"], "unknown method 'dns'; did you mean 'dsn'?"),
        (["compare", "--methods", "dsn:exit_weight"], "'exit_weight' in 'dsn:exit_weight' is not OPTION=VALUE"),
        (["compare", "--methods", "dsn:exit_wait=2"], "did you mean '--method.exit_weight'?"),
        (["compare", "--methods", "dsn:exit_weight=0"], "method.exit_weight is 0"),
    ],
)
def test_a_request_that_cannot_be_meant(
    words: list[str], told: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = fails(words, capsys)
    assert code == 2
    assert told in err
    assert not list(tmp_path.iterdir())


# Requests that fail: 1


@pytest.mark.parametrize("command", ["resume", "evaluate", "export"])
def test_a_folder_that_is_no_run(command: str, capsys: Captured, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, err = fails([command, str(folder)], capsys)
        assert code == 1
        assert f"{folder} is no run folder" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_run_without_a_checkpoint(command: str, capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {name: resnet10, width: 4}\ndata: {name: digits}\n", encoding="utf-8")
    code, err = fails([command, str(tmp_path)], capsys)
    assert code == 1
    assert f"{tmp_path} has no checkpoint yet" in err


def test_resume_of_a_finished_run(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {name: digits}\n", encoding="utf-8")
    for name in ("result.json", "report.html"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    code, err = fails(["resume", str(tmp_path)], capsys)
    assert code == 1
    assert f"{tmp_path} is finished" in err


def test_data_that_is_not_there(capsys: Captured, tmp_path: Path) -> None:
    words = ["train", "folder", "--data.root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    code, err = fails(words, capsys)
    assert code == 1
    assert "nowhere is not a folder" in err
    assert not list(tmp_path.iterdir())


# --debug, and Ctrl-C


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["resume", "nowhere"], CheckpointError), (["trian"], UnknownName), (["list", "nets"], MetaDistillerError)],
)
@pytest.mark.parametrize("first", [True, False])
def test_debug_lets_the_exception_through(words: list[str], kind: type[Exception], first: bool) -> None:
    with pytest.raises(kind):
        main(["--debug", *words] if first else [*words, "--debug"])


def test_debug_changes_nothing_else(capsys: Captured) -> None:
    assert main(["list", "methods", "--debug"]) == 0
    with_debug = capsys.readouterr().out
    assert main(["list", "methods"]) == 0
    assert capsys.readouterr().out == with_debug


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: list[str]) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setitem(cli.COMMANDS, "list", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        main(["list"])


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "list", interrupted)
    assert main(["list"]) == 130
    assert "metadistiller resume RUN" in capsys.readouterr().err


def test_words_come_from_the_command_line_by_default(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "argv", ["metadistiller", "--version"])
    assert main() == 0
    assert __version__ in capsys.readouterr().out


def test_names_give_a_terminal_no_orders_in_errors_and_tables(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, err = fails(["resume", str(tmp_path / "\x1b[2J\nrun")], capsys)
    assert code == 1
    assert "\x1b" not in err
    assert "\\x1b[2J\\nrun" in err
    cli._words.print_table("a\x1b[2J", ("b",), [("c\x1b[2J\u202e",), ("[red]name[/blue]",)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[red]name[/blue]" in out
