"""The paper's tables, run by run: what is missing is trained, and each finished run is entered in the ledger.

Rows come one after the other, the cheapest network first; within a row seed by seed, and within a seed all methods. So
whatever a budget leaves undone, what is done can be compared. A run's folder is OUT/RECIPE[/VARIANT]/EPOCHS/SEED:
tables share runs, and a run that was cut short goes on where it stopped.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import assemble, paper, report
from .apart import check_same, train_apart
from .budget import Budget, no_limit
from .building import check_method, is_taught, written_out
from .config import Config, Teacher
from .engine.machine import resolve
from .entering import enter, left_out
from .errors import CheckpointError, ConfigError, LedgerError, Paused, RunError, UnknownName
from .records import RunFolder, read_json, write_json

COST_METHODS = (*paper.TABLES["table1"].methods, "kd", "fitnet", "attention_transfer", "dml")
ABLATION_METHODS = ("plain", "dsn", "self_distillation", "metadistiller")
METHODS = {"ablation": ABLATION_METHODS, "cost": COST_METHODS, "figure3": ("metadistiller",)}
TARGETS = (*paper.TABLES, *METHODS)

# From a recipe's name and further words to the Config that they mean.
Read = Callable[[str, Sequence[str]], Config]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a plan.

    Attributes:
        recipe: its name.
        label: the recipe's, with the variant where it is one.
        config: every default written out; what is left to the machine is decided when its turn comes.
        folder: where.
        command: the one that does the same by itself.
    """

    recipe: str
    label: str
    config: Config
    folder: RunFolder
    command: str


def places(target: str, rows: Sequence[str], methods: Sequence[str]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Row, method and method options of everything in a target, cheapest row first.

    Args:
        target: of TARGETS.
        rows, methods: which of them; empty for all, and for ablation, cost and figure3 their usual one row.
    Raises: UnknownName.
    """
    if target in paper.TABLES:
        table = paper.TABLES[target]
        known_rows, usual, known_methods = (*table.rows, *table.candidates), table.rows, table.methods
    else:
        known_rows = tuple(name for name, network in paper.NETWORKS.items() if network.data == "cifar100")
        usual, known_methods = ("resnet18",), METHODS[target]
    chosen_rows = _chosen(f"row of {target}", rows, known_rows, usual)
    chosen_methods = _chosen(f"method of {target}", methods, known_methods, known_methods)
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for row in sorted(chosen_rows, key=lambda name: paper.NETWORKS[name].macs):
        found += [(row, method, {}) for method in chosen_methods if _has_recipe(row, method)]
        if target == "ablation" and "metadistiller" in chosen_methods:
            found += [(row, "metadistiller", options) for options in paper.ABLATIONS.values()]
    return found


def _chosen(kind: str, wanted: Sequence[str], known: Sequence[str], usual: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in known:
            raise UnknownName(kind, name, known)
    return [name for name in known if name in (wanted or usual)]


def _has_recipe(row: str, method: str) -> bool:
    # Cost asks for the two-stage methods of any row; the paper has them for two networks.
    return any(row in (*table.rows, *table.candidates) and method in table.methods for table in paper.TABLES.values())


def plan(
    target: str,
    read: Read,
    *,
    rows: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: int,
    words: Sequence[str],
    out: Path,
) -> list[Run]:
    """Every run of a target, in the order in which they are worth doing.

    Args:
        read: from a recipe's name and words to a Config.
        seeds: 0 to seeds - 1; a teacher is the one of seed 0, for all students.
        words: settings on top of every recipe.
        out: the folder of all runs.
    Raises: UnknownName; ConfigError where a folder holds a run of other settings.
    """
    wanted = places(target, rows, methods)
    if not wanted:
        raise ConfigError(f"{target} has no run of {', '.join(rows)} with {', '.join(methods)}")
    for word in words:
        if word.startswith("--teacher"):
            raise ConfigError(f"{word}: the teacher of the paper's tables is {paper.TEACHER}; compare takes any")
    found: dict[Path, Run] = {}
    for row in dict.fromkeys(row for row, _, _ in wanted):
        for seed in range(seeds):
            for _, method, options in (place for place in wanted if place[0] == row):
                for run in _with_teacher(row, method, options, seed, read, words, out):
                    found.setdefault(run.folder.path, run)
    if target == "figure3" and len(found) > 1:
        raise ConfigError(f"figure3 shows one run, these are {len(found)}; give one of --rows, and --seeds 1")
    for run in found.values():
        check_same(run.folder, run.config)
        if run.config.teacher is not None:
            # A student that makes no sense would be found after its teacher was trained.
            check_method(run.config)
    return list(found.values())


def _with_teacher(
    row: str, method: str, options: Mapping[str, Any], seed: int, read: Read, words: Sequence[str], out: Path
) -> Iterator[Run]:
    """The run, after its teacher's where it has one."""
    run = _run(paper.run_name(row, method), options, seed, read, words, out)
    if not is_taught(run.config):
        yield run
        return
    # What is said of the method is the student's.
    others = [word for word in words if not word.startswith("--method.")]
    teacher = _run(paper.run_name(paper.TEACHER, "plain"), {}, 0, read, others, out)
    yield teacher
    # What was said of all networks has been said of the teacher too.
    model = teacher.config.model
    config = replace(run.config, teacher=Teacher(name=model.name, options=model.options, run=str(teacher.folder)))
    yield replace(run, config=config, command=f"{run.command} {shlex.join(['--teacher', str(teacher.folder)])}")


def _run(name: str, options: Mapping[str, Any], seed: int, read: Read, words: Sequence[str], out: Path) -> Run:
    variant = [f"--method.{key}={value}" for key, value in options.items()]
    all_words = [*words, *variant, f"--seed={seed}"]
    config = written_out(read(name, all_words))
    label = ",".join(f"{key}={value}" for key, value in options.items())
    folder = out / name / label if label else out / name
    return Run(
        recipe=name,
        label=f"{name} {label}".strip(),
        config=config,
        folder=RunFolder(folder / f"e{config.epochs}" / f"s{seed}"),
        command=shlex.join(["metadistiller", "train", name, *all_words]),
    )


def reproduce(
    runs: Sequence[Run],
    evidence: Path,
    *,
    budget: Budget,
    tell: Callable[[str], None],
    interrupted: Callable[[], bool] = no_limit,
) -> bool:
    """Train what is missing as long as the budget lasts; the ledger and its page are up to date after every run.

    Args:
        evidence: the folder of ledger.json.
        tell: is given one line for each run.
        interrupted: asked all the time whether to save and stop.
    Returns: whether all of it is done.
    Raises: RunError counting the runs that failed, were not entered or are not on the page, after all others.
    """
    evidence.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for number, run in enumerate(runs, start=1):
        where = f"[{number}/{len(runs)}] {run.label} seed {run.config.seed}"
        if not run.folder.finished:
            if interrupted() or budget.spent():
                why = "the budget is used up" if budget.spent() else "asked to stop"
                tell(f"{where}: not begun, {why}; the same command goes on from here")
                return False
            try:
                # Only now, as it may measure: planning a table must not cost a minute for each network in it.
                train_apart(run.folder, resolve(run.config), budget=budget, interrupted=interrupted)
            except Paused as error:
                tell(f"{where}: {error}")
                return False
            except RunError as error:
                failed.append(f"{run.label}: {error}")
                tell(f"{where}: failed: {error}")
                continue
        try:
            enter(run.folder, evidence, started_from=run.recipe, command=run.command)
        except (LedgerError, CheckpointError, OSError) as error:
            failed.append(f"{run.label}: {error}")
            tell(f"{where}: {left_out(error)}")
            continue
        result = read_json(run.folder.result)
        tell(
            f"{where}: final {result['final']:.2f}, ensemble {result['ensemble']:.2f}, epochs {result['epochs']}, "
            f"{result['seconds']:.0f} s"
        )
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed, were not entered or are not on the page, see above")
    return True


def figure3(run: Run, evidence: Path) -> Path:
    """Draw Fig. 3 from its finished run beside the ledger: figure3.svg, and figure3.json with all that is in it.

    Returns: the path of the figure.
    Raises: CheckpointError, DataError.
    """
    path = evidence / "figure3.svg"
    _, values = assemble.figure3(run.folder.path, out=path)
    write_json(path.with_suffix(".json"), values)
    if (evidence / "ledger.json").exists():
        # Again, for the page shows the figure where there is one.
        report.write_evidence(evidence)
    return path
