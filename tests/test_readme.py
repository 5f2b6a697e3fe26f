"""What the README says can be done, can be done."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision

import metadistiller
from loading import module_of
from metadistiller import cli, ledger, report
from metadistiller.errors import LedgerError
from metadistiller.paired import mean_and_deviation, paired_difference
from metadistiller.recipes import recipe
from metadistiller.records import RunFolder
from metadistiller.settings import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_two_commands_do_all_the_set_up() -> None:
    """CI takes them from the README by this form, so they must stand alone on their lines, and first."""
    assert [line for line in README.splitlines() if line.startswith("pip install ")] == [
        "pip install . && metadistiller train",
        "pip install '.[test]' && pytest",
    ]
    assert README.index("'.[test]' && pytest") < 1200, "not on the first screen"


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("metadistiller ")])
def test_every_command_shown_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train and compare as far as their Config; the others with the run folder that they name being absent."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "a.jpg").touch()
    RunFolder.create(tmp_path / "runs" / "teacher", recipe("digits").as_dict())
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    if words[0] == "train":
        parse(words[1:], command="train", add_extras=cli.training._add_train)
    elif words[0] == "compare":
        given = {option: words[words.index(option) + 1] for option in ("--methods", "--seeds")}
        assert int(given["--seeds"]) > 0
        for row in given["--methods"].split(","):
            assert cli.training._with_method([], row, lambda parser: None).method.name == row.partition(":")[0]
    elif words[0] in (
        "resume",
        "evaluate",
        "figure3",
        "export",
        "push",
        "report",
        "predict",
        "check",
        "app",
        "calibrate",
    ):
        # The image there is empty, which is what check is for.
        assert cli.main(words) == 1
    elif words[0] == "reproduce":
        # The plan is made; nothing is trained.
        monkeypatch.setattr("metadistiller.reproduce.reproduce", lambda runs, *args, **more: bool(runs))
        assert cli.main(words) == 0
    else:
        assert cli.main(words) == 0


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = (block for kind, block in BLOCKS if kind == "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "runs/two-epochs" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "runs" / "two-epochs" / "report.html").is_file()


def test_the_loop_of_one_s_own_runs() -> None:
    _, code = (block for kind, block in BLOCKS if kind == "python")
    model = torchvision.models.resnet18(num_classes=10)
    batches = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(3)]
    given = {"metadistiller": metadistiller, "torch": torch, "model": model, "steps": [(*batches[0], *batches[1:])]}
    before = model.fc.weight.detach().clone()
    exec(compile(code, "README.md", "exec"), given)
    assert given["model"] is model
    assert not torch.equal(model.fc.weight, before)


def test_the_tree_shows_what_is_there() -> None:
    (tree,) = (block for kind, block in BLOCKS if kind == "text")
    package = ROOT / "src" / "metadistiller"
    for line in tree.splitlines():
        inside = line.startswith("│")
        names = re.split(r"\s{3,}", line.lstrip("│├└─ "))[0].split()
        for name in names:
            path = (package if inside else ROOT) / name
            assert path.exists(), f"{name} is in the README's tree and nowhere else"


def test_every_part_of_the_package_stands_in_the_tree() -> None:
    (tree,) = (block for kind, block in BLOCKS if kind == "text")
    for path in (ROOT / "src" / "metadistiller").iterdir():
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py"):
            assert path.name in tree


# What the results stand on


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return module_of(ROOT / "scripts" / "results.py")


def test_the_results_are_what_the_ledger_makes(results: ModuleType) -> None:
    assert results.written(README) == README, "README.md is behind evidence/ledger.json: run python scripts/results.py"
    assert re.findall("<!-- results: (.*) -->", README) == list(results.SETTINGS), "each setting, once"
    assert README.count("<!-- end of results -->") == len(results.SETTINGS)


def test_the_evidence_page_is_what_the_ledger_makes(tmp_path: Path) -> None:
    evidence = ROOT / "evidence"
    for name in ("ledger.json", "figure3.svg"):
        if (evidence / name).exists():
            (tmp_path / name).write_bytes((evidence / name).read_bytes())
    made = report.write_evidence(tmp_path).read_text(encoding="utf-8")
    page = (evidence / "README.md").read_text(encoding="utf-8")
    assert made == page, "evidence/README.md is behind its ledger.json: run metadistiller report evidence"


def test_results_that_were_changed_by_hand_are_mended(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(README.replace("92.05", "99.05"), encoding="utf-8")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.main() == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == README
    (tmp_path / "README.md").write_text(README.replace("results: digits", "results: dogs"), encoding="utf-8")
    assert results.main() == 1
    assert "unknown result 'dogs-10-per-class'; did you mean 'digits-10-per-class'?" in capsys.readouterr().err
    monkeypatch.setitem(results.SETTINGS, "dogs-10-per-class", {"recipe": "digits", "epochs": 1, "overrides": {}})
    with pytest.raises(LedgerError, match="has no comparison of digits, 1 epochs"):
        results.written((tmp_path / "README.md").read_text(encoding="utf-8"))
    assert results.main() == 1

    def fail(*args: object, **more: object) -> str:
        raise KeyError("hardware")

    # What is no fault of the page is not put down to it.
    monkeypatch.setattr(report, "results", fail)
    with pytest.raises(KeyError, match="hardware"):
        results.main()


def test_numbers_in_the_text_are_those_of_the_ledger() -> None:
    """What is said of the results in words, and no table has."""
    records = ledger.read(ROOT / "evidence" / "ledger.json")

    def metadistiller(**method: str | int) -> list[ledger.Record]:
        wanted = {"data.train_per_class": 10, **{f"method.{key}": value for key, value in method.items()}}
        found = [record for record in records if (record.recipe, record.overrides) == ("digits", wanted)]
        assert len(found) == 5
        return sorted(found, key=lambda record: record.seed)

    def losses(**method: str | int) -> list[float]:
        ends = [record.targets[-1].heldout_loss for record in metadistiller(**method) if record.targets]
        return [loss for loss in ends if loss is not None]

    uniform, own = ([record.final for record in metadistiller(**each)] for each in ({"targets": "uniform"}, {}))
    below = paired_difference(uniform, own)
    assert below.interval is not None
    text = " ".join(README.split())
    assert f"by {below.mean:.2f} ({below.interval[0]:.2f} to {below.interval[1]:.2f})" in text
    (five, one) = losses(), losses(meta_every_epochs=1)
    assert (len(five), len(one)) == (5, 5)
    ends = f"{mean_and_deviation(five)[0]:.4f} ({min(five):.4f} to {max(five):.4f} over the seeds; with M = 1 at "
    assert f"the held-out loss ends at {ends}{mean_and_deviation(one)[0]:.4f})" in text
    short = {
        record.method: record.final
        for record in records
        if record.recipe == f"cifar100_wrn16_1_{record.method}"
        and (record.epochs, record.seed, record.overrides) == (20, 0, {})
    }
    assert len(short) == 4
    rows = ("plain", "dsn", "self_distillation", "metadistiller")
    assert ", ".join(f"{method} {short[method]:.2f}" for method in rows) in text
    without = [
        record.final
        for record in records
        if record.recipe == "cifar100_wrn16_1_metadistiller"
        and (record.epochs, record.overrides) == (20, {"method.targets": "uniform"})
    ]
    assert f"with uniform targets {without[0]:.2f} %" in text


LINKING = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *LINKING])
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
