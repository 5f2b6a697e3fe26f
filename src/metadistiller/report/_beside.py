"""The page of several runs side by side, and that of a comparison of methods over seeds."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from metadistiller.paired import mean_and_deviation

from ._charts import drawing, row_style
from ._diagrams import dots, tradeoffs
from ._judging import scale
from ._page import page
from ._reading import printable
from ._rows import Row, difference, differing, overlays
from ._run import Run
from ._sections import Section, begun, title_of
from ._tables import accuracies, accuracy, cost, duration, environment, most_confused, pace, spread

PAIRS = 8  # rows up to which every two of them are compared
PLAIN = "plain"


def render_several(rows: Sequence[Row]) -> str:
    """The page of runs that stand for themselves, as HTML."""
    best = max(rows, key=lambda row: row.every[0].result.final)
    line = f"Highest final accuracy: {best.every[0].result.final:.2f} % ({best.name})."
    with drawing():
        sections = [
            Section(
                "Runs", "beside/runs.html.j2", {"rows": [_facts(row) for row in rows], "settings": _settings(rows)}
            ),
            Section("Accuracy", "beside/accuracy.html.j2", {"chart": _dots(rows), "tables": _accuracies(rows)}),
            *_common(rows, "Run"),
        ]
    singles = [
        Section(f"Run {number}: {row.name}", "beside/run.html.j2", _single(row)) for number, row in enumerate(rows, 1)
    ]
    return page(f"{len(rows)} runs side by side", line, [*sections, *singles, _environment(rows)])


def render_comparison(command: str, rows: Sequence[Row]) -> str:
    """The page of methods with several seeds each, as HTML. At least one run is finished."""
    compared = [row for row in rows if row.runs and not row.teaches]
    first = compared[0].every[0]
    seeds = sorted({seed for row in rows for seed in row.runs})
    facts = [
        ("Data", first.result.data),
        ("Network", first.result.network),
        ("Epochs", f"{first.result.epochs:,}"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Test images, classes", f"{first.evaluation.count:,}, {len(first.evaluation.classes):,}"),
    ]
    with drawing():
        sections = [
            Section(
                "Run",
                "beside/comparison.html.j2",
                {"facts": facts, "command": printable(command), "settings": _settings(rows), "begun": begun(first)},
            ),
            Section("Accuracy", "beside/accuracy.html.j2", {"chart": _dots(compared), "tables": _means(rows, seeds)}),
            *_common(rows, "Method"),
        ]
    every = Section(
        "Every run", "beside/every.html.j2", {"rows": [_every(row, seed) for row in rows for seed in row.runs]}
    )
    title = f"{len(compared)} methods on {first.result.network}, {first.result.data}"
    return page(title, _headline(compared), [*sections, every, _environment(rows)])


def _headline(rows: Sequence[Row]) -> str:
    """Which has the highest mean, over seeds that all have: a mean over other seeds is no smaller or greater for it."""
    common = set.intersection(*(set(row.runs) for row in rows))
    if not common:
        counts = ", ".join(f"{row.name} {_seeds(len(row.runs))}" for row in rows)
        return f"No seed is finished in all rows, so none is ranked above another: {counts}."
    means = {row.name: fmean(row.values("final")[seed] for seed in common) for row in rows}
    best = max(means, key=means.__getitem__)
    shared = all(set(row.runs) == common for row in rows)
    over = _seeds(len(common)) if shared else f"the {_seeds(len(common))} that all rows have"
    return f"Highest mean of the final accuracy: {means[best]:.2f} % ({best}), over {over}."


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


# -- what was trained -------------------------------------------------------------------------------------------------


def _facts(row: Row) -> dict[str, Any]:
    result, count = row.every[0].result, row.every[0].evaluation.count
    found = {output.name: output for output in row.every[0].evaluation.outputs}
    shares = [accuracy(found[name].top1, count) for name in ("final", "ensemble")]
    final, ensemble = (f"{share.percent} ({share.low} – {share.high})" for share in shares)
    return {
        "name": row.name,
        "link": row.links.get(0),
        "cells": [
            result.method,
            result.network,
            result.data,
            "–" if result.seed is None else str(result.seed),
            f"{result.epochs:,}",
            final,
            ensemble if result.exits else "–",
            duration(result.seconds),
        ],
    }


def _settings(rows: Sequence[Row]) -> dict[str, Any]:
    return {"names": [row.name for row in rows if row.runs], **differing(rows)}


def _single(row: Row) -> dict[str, Any]:
    run = row.every[0]
    return {
        "title": title_of(run),
        "link": row.links.get(0),
        "begun": begun(run),
        "accuracy": {"rows": accuracies(run), "count": run.evaluation.count},
        "pairs": most_confused(run.evaluation, limit=5),
        "cost": cost(run),
    }


def _every(row: Row, seed: int) -> dict[str, Any]:
    result = row.runs[seed].result
    return {
        "name": row.name,
        "seed": seed,
        "link": row.links.get(seed),
        "cells": [
            f"{result.final:.2f}",
            f"{result.ensemble:.2f}" if result.exits else "–",
            duration(result.seconds),
            f"{result.peak_memory_mb:,.0f}",
        ],
    }


# -- accuracy ---------------------------------------------------------------------------------------------------------


def _dots(rows: Sequence[Row]) -> Any:
    several = any(len(row.runs) > 1 for row in rows)
    return dots(
        {row.name: list(row.values("final").values()) for row in rows},
        {row.name: row_style(row.place) for row in rows},
        title="Final accuracy",
        unit="top-1 in %",
        note="A point for each seed, a bar at their mean." if several else "After the last epoch.",
    )


def _accuracies(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of single runs: top-1 of every output."""
    names = list(dict.fromkeys(name for row in rows for name, *_ in accuracies(row.every[0])))
    # The final output and the ensemble stand at the end, behind the exits of the network that has most.
    names.sort(key=lambda name: ("final", "ensemble").index(name) if name in ("final", "ensemble") else -1)
    cells = []
    for row in rows:
        found = {name: top1.percent for name, top1, _ in accuracies(row.every[0])}
        cells.append([row.name, *(found.get(name, "–") for name in names)])
    note = "Runs of one seed each: how far a difference would change with another seed is not known."
    return [{"headings": ["Run", *names], "rows": cells, "caption": "Top-1 on the test set, %", "note": note}]


def _means(rows: Sequence[Row], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Of a comparison: means, every seed, every two rows."""
    plain = next((row.values("final") for row in rows if row.name == PLAIN), {})
    finals = {row.name: row.values("final") for row in rows}
    means = [
        [
            row.name,
            str(len(row.runs)),
            spread(list(finals[row.name].values())),
            spread(list(row.values("ensemble").values())) if any(run.result.exits for run in row.every) else "–",
            "–" if row.teaches or row.name == PLAIN else difference(finals[row.name], plain),
        ]
        for row in rows
    ]
    tables = [
        {
            "headings": ["Method", "Seeds", "Final, %", "Ensemble, %", "Final minus plain (95 % interval)"],
            "rows": means,
            "caption": "Top-1 on the test set after the last epoch: mean ± standard deviation over seeds",
            "note": "The difference is the mean over common seeds, in percentage points; its interval is Student's, of "
            "the paired differences. Where it holds 0, these seeds do not tell the two apart.",
        },
        {
            "headings": ["Method", *(f"Seed {seed}" for seed in seeds)],
            "rows": [
                [row.name, *(f"{finals[row.name][seed]:.2f}" if seed in row.runs else "–" for seed in seeds)]
                for row in rows
            ],
            "caption": "Final accuracy of every seed, %",
            "note": "",
        },
    ]
    compared = [row.name for row in rows if row.runs and not row.teaches]
    if 2 < len(compared) <= PAIRS:
        tables.append(
            {
                "headings": ["Row minus column", *compared],
                "rows": [
                    [
                        ours,
                        *("–" if ours == theirs else difference(finals[ours], finals[theirs]) for theirs in compared),
                    ]
                    for ours in compared
                ],
                "caption": "Paired differences of the final accuracy, percentage points (95 % interval)",
                "note": "Of several comparisons at once some intervals miss 0 by chance: one in twenty.",
            }
        )
    return tables


# -- what both pages have ---------------------------------------------------------------------------------------------


def _common(rows: Sequence[Row], kind: str) -> list[Section]:
    """`kind` is what a row stands for."""
    filled = [row for row in rows if row.runs]
    charts = overlays(filled)
    found = [
        Section("Training", "charts.html.j2", {"charts": charts}) if charts else None,
        Section("Calibration", "beside/table.html.j2", _calibration(filled, kind)),
        _early_exits(filled),
        Section("Cost", "beside/table.html.j2", _cost(filled, kind)),
    ]
    return [section for section in found if section]


def _calibration(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    cells = []
    for row in rows:
        judged = [run.judged for run in row.every if run.judged]
        finals = [each.final for each in judged]
        cells.append(
            [
                row.name,
                # Of one test set as many are kept for every seed.
                _images(judged[0].count, judged[0].total) if judged else "–",
                spread([100 * each.before.bins.ece for each in finals]),
                spread([each.before.nll for each in finals], ".3f"),
                spread([100 * each.after.bins.ece for each in finals]),
                spread([each.after.nll for each in finals], ".3f"),
            ]
        )
    return {
        "headings": [kind, "Images", "ECE, %", "NLL, nats", "ECE after, %", "NLL after, nats"],
        "rows": cells,
        "caption": "Of the final output, before and after temperature scaling",
        "note": "ECE: expected calibration error over 15 bins. NLL: mean negative log-likelihood. Images: how "
        "many the outputs were kept of, evenly spread where those are not all; each half of them is judged with the "
        "temperature of the other. – : a run from before outcomes.safetensors.",
    }


def _images(count: int, total: int) -> str:
    return f"{count:,}" if count == total else f"{count:,} of {total:,}"


def _early_exits(rows: Sequence[Row]) -> Section | None:
    """The thresholds' curves, of the first seed of each row."""
    found, styles = {}, {}
    for row in rows:
        judged = row.every[0].judged
        styles[row.name] = row_style(row.place)
        if judged and judged.exits:
            found[row.name] = judged.exits
    if not found:
        return None
    several = any(len(row.runs) > 1 for row in rows)
    chart = tradeoffs(
        found,
        styles,
        title="Accuracy against cost",
        note="One threshold for all exits: at the left all leave at once; square and dotted: the plain network."
        + (" Of each method the first seed." if several else ""),
    )
    return Section("Early exits", "charts.html.j2", {"charts": [chart]})


def _cost(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    cells = []
    for row in rows:
        plain = _plain_beside(row, rows)
        seconds, memory = (list(row.values(key).values()) for key in ("seconds", "peak_memory_mb"))
        judged = row.every[0].judged
        factor, letter = scale(judged.macs) if judged else (1.0, "")
        cells.append(
            [
                row.name,
                " ± ".join(duration(value) for value in mean_and_deviation(seconds) if value is not None),
                _times(seconds, plain, "seconds"),
                spread([pace(run) for run in row.every], ",.0f"),
                f"{fmean(memory):,.0f}",
                _times(memory, plain, "peak_memory_mb"),
                f"{judged.macs / factor:.3g} {letter}" if judged else "–",
            ]
        )
    return {
        "headings": [
            kind,
            "Training",
            "× plain",
            "Images/s",
            "Peak memory, MiB",
            "× plain",
            "MACs of the plain network",
        ],
        "rows": cells,
        "caption": "What training takes, and what an answer takes afterwards",
        "note": "× plain: against plain training of the same network on the same data, in batches of the same size, "
        "over as many epochs and on the same device, where it is among these. Images/s is the median over epochs.",
    }


def _plain_beside(row: Row, rows: Sequence[Row]) -> Row | None:
    def kind(run: Run) -> list[Any]:
        # With their options: two widths of a network, or two folders of photographs, have one name.
        settings = [run.values.get(key) for key in ("model", "data", "batch_size")]
        return [*settings, run.result.network, run.result.data, run.result.epochs, run.environment.get("device")]

    same = [other for other in rows if other.every[0].result.method == PLAIN and not other.teaches]
    return next((other for other in same if kind(other.every[0]) == kind(row.every[0])), None)


def _times(values: Sequence[float], plain: Row | None, key: str) -> str:
    base = fmean(plain.values(key).values()) if plain else 0.0
    return f"{fmean(values) / base:.2f}" if base else "–"


def _environment(rows: Sequence[Row]) -> Section:
    """Once where all runs had the same; what differs, run by run."""
    runs = [
        (f"{row.name}, seed {seed}" if len(row.runs) > 1 else row.name, run)
        for row in rows
        for seed, run in row.runs.items()
    ]
    found = [dict(environment(run)) for _, run in runs]
    names = list(dict.fromkeys(name for each in found for name in each))
    same = [name for name in names if len({each.get(name) for each in found}) == 1]
    others = [name for name in names if name not in same]
    return Section(
        "Environment",
        "beside/environment.html.j2",
        {
            "same": [(name, found[0][name]) for name in same],
            "headings": ["Run", *others],
            "rows": [
                [name, *(each.get(key, "–") for key in others)] for (name, _), each in zip(runs, found, strict=True)
            ]
            if others
            else [],
        },
    )
