"""The evidence page: the paper's tables with our numbers beside its own, and every run behind them."""

from collections.abc import Iterator, Mapping, Sequence

from metadistiller import paper
from metadistiller.ledger import Record
from metadistiller.recipes.paper import NAMES

from ._ablations import ablations
from ._compared import compared, settings
from ._comparisons import comparisons, runs, short
from ._cost import costs, machine
from ._groups import Group, accuracy, counterpart, epochs_of, gain, group, shown, told
from ._markdown import code, table, text
from ._tables import duration

Groups = Mapping[str, list[Group]]

HEAD = """\
# Evidence

The tables of the paper, with what this software measured beside what the paper reports. Made from
[ledger.json](ledger.json), which has every run; do not edit this page, it is written anew.

Accuracy is top-1 on the test set after the last epoch, percent. Ours is the mean over seeds ± their sample standard
deviation, and in parentheses the number of seeds. The paper gives one number; in parentheses, where it does so itself,
stands what it quotes from Be Your Own Teacher. An empty cell has not been run.

`(1; 3 of 200 epochs)` marks a run that is shorter than its recipe, and `NAME=VALUE` one with other settings: they say
that the pipeline works, and nothing about the paper's number. Runs of different length or settings are never averaged
together, and only runs of the same length and settings are compared. Runs on other data, or of another network or
method than their recipe's, and those of recipes that the paper has not, stand under Comparisons.

Where several machines have run the same seed, the earliest run stands in the tables, and all of them in the list of
runs."""

DIFFERENCES = """\
Percentage points, paired by seed: the same seed gives the same initial network and the same order of images. In
parentheses the 95 % confidence interval of the mean (Student's t) and the number of pairs. Where several machines have
run a seed, its pair is of two runs on the same machine if there are such, and of the earliest runs otherwise."""

FIGURE3 = "![Soft targets, exits and final output of test images, and their mean entropies](figure3.svg)"

COMPARISONS = (
    *((method, "plain") for method in ("dsn", "self_distillation", "metadistiller")),
    *((method, "plain") for method in ("kd", "fitnet", "attention_transfer", "dml")),
    ("metadistiller", "self_distillation"),
    ("metadistiller", "dsn"),
)


def render(records: Sequence[Record], *, figure3: bool = False) -> str:
    """The page; the same records, in any order, give the same text.

    Args:
        figure3: whether figure3.svg stands beside the page.
    """
    comparable = [record for record in records if not compared(record)]
    groups, elsewhere = group(comparable), settings(records)
    parts = [HEAD, _extent(records, groups)]
    for name in paper.TABLES:
        parts += _accuracies(name, groups)
    parts += [*_differences(groups), *costs(comparable), *ablations(groups)]
    parts += ["## Figure 3", FIGURE3] if figure3 else []
    parts += comparisons(elsewhere)
    listed = [*_runs(groups), *runs(elsewhere, [record for record in records if compared(record)])]
    parts += ["## Runs", *(listed or ["None yet."])]
    return "\n\n".join(parts) + "\n"


def _extent(records: Sequence[Record], groups: Groups) -> str:
    full = sum(len(item.records) for found in group(records).values() for item in found if item.in_full)
    recipes = sum(any(item.in_full for item in groups.get(name, [])) for name in NAMES)
    seconds = sum(sorted(record.seconds for record in records))
    return (
        f"Runs: {len(records)}, of which {full} exactly as their recipe says. "
        f"Of the {len(NAMES)} recipes behind the tables, {recipes} have such a run.\n"
        f"Together they took {duration(seconds)}; teachers that are no runs here are not in it."
    )


# -- tables 1 to 4 ----------------------------------------------------------------------------------------------------


def _accuracies(name: str, groups: Groups) -> list[str]:
    found = paper.TABLES[name]
    rows = []
    for network in _networks(found, groups):
        for method in found.methods:
            ours = shown(groups, paper.run_name(network, method))
            theirs = {cell.output: cell for cell in paper.cells(name, network, method)}
            row = [network, method]
            for output in ("final", "ensemble"):
                row += [_reported(theirs.get(output)), accuracy(ours, output)]
            rows.append(row)
    notes = [
        f"`{candidate}` is a candidate for the row of {row}: beside it stands that row's number."
        for candidate, row in found.candidates.items()
    ]
    headings = ("network", "method", "final, paper", "final, ours", "ensemble, paper", "ensemble, ours")
    title = f"## Table {name.removeprefix('table')}: {found.title}"
    return [title, table(headings, rows, left=2), *notes]


def _networks(found: paper.Table, groups: Groups) -> Iterator[str]:
    """The rows; a candidate below its row, where there is a run of it."""
    for row in found.rows:
        yield row
        for candidate, its_row in found.candidates.items():
            if its_row == row and any(paper.run_name(candidate, method) in groups for method in found.methods):
                yield candidate


def _reported(cell: paper.Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.value:.2f}" + (f" ({cell.quoted:.2f})" if cell.quoted is not None else "")


# -- differences ------------------------------------------------------------------------------------------------------


def _differences(groups: Groups) -> list[str]:
    rows = []
    rows_of = {candidate: row for found in paper.TABLES.values() for candidate, row in found.candidates.items()}
    for network in paper.NETWORKS:
        row = rows_of.get(network, network)
        for method, baseline in COMPARISONS:
            ours = shown(groups, paper.run_name(network, method))
            theirs = counterpart(ours, groups.get(paper.run_name(network, baseline), [])) if ours else None
            # Plain training has no ensemble to compare with.
            outputs: tuple[paper.Output, ...] = ("final",) if baseline == "plain" else ("final", "ensemble")
            measured = [gain(ours, theirs, output) for output in outputs]
            reported = [_reported_gain(row, method, baseline, output) for output in outputs]
            if any(measured) or (network == row and any(reported)):
                cells = [cell for pair in zip(reported, measured, strict=True) for cell in pair]
                rows.append([network, f"{method} − {baseline}", *cells, *["", ""] * (2 - len(outputs))])
    headings = ("network", "difference", "final, paper", "final, ours", "ensemble, paper", "ensemble, ours")
    return [
        "## Differences",
        DIFFERENCES,
        table(headings, rows, left=2),
    ]


def _reported_gain(row: str, method: str, baseline: str, output: paper.Output) -> str:
    values = {
        cell.method: cell.value
        for found in paper.TABLES.values()
        for cell in found.cells
        if (cell.row, cell.output) == (row, output)
    }
    return f"{values[method] - values[baseline]:+.2f}" if {method, baseline} <= values.keys() else ""


# -- every run ----------------------------------------------------------------------------------------------------


def _runs(groups: Groups) -> list[str]:
    """Those behind the tables, in their order."""
    lines = [_run(record) for name in NAMES for item in groups.get(name, []) for record in item.records]
    return ["\n".join(lines)] if lines else []


def _run(record: Record) -> str:
    outputs = [f"exits {' / '.join(f'{value:.2f}' for value in record.exits)}"] if record.exits else []
    outputs.append(f"final {record.final:.2f}")
    outputs += [f"ensemble {record.ensemble:.2f}"] if record.exits else []
    facts = [f"seed {record.seed}, {epochs_of(record)}: {', '.join(outputs)}"]
    if record.overrides:
        changed = (f"{key}={told(value)}" for key, value in sorted(record.overrides.items()))
        facts.append("changed: " + text(", ".join(changed)))
    if record.teacher is not None:
        teacher = record.teacher
        facts.append(
            f"teacher {text(teacher.network)}, {teacher.epochs} epochs, {duration(teacher.seconds)}, "
            f"final {teacher.final:.2f}"
        )
    facts += [f"{duration(record.seconds)}, {record.peak_memory_mb:,.0f} MiB", machine(record.hardware)]
    commits = ", ".join(map(short, (record.commit or "unknown").split(", ")))
    facts += [f"metadistiller {text(record.package)}, commit {text(commits)}", record.date]
    return f"- **{text(record.recipe)}** {'; '.join(facts)}\n  {code(record.command)}".rstrip()
