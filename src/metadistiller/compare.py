"""Several methods, several seeds, one table. Every run is a process of its own, so its time and memory are its own."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import report
from .apart import check_same, train_apart
from .budget import no_limit
from .building import is_taught, written_out
from .config import Choice, Config, is_of_a_row
from .engine.machine import resolve
from .engine.same_images import known_images
from .entering import left_out
from .errors import CheckpointError, LedgerError, PageError, Paused, RunError
from .paired import Difference, mean_and_deviation, paired_difference, told_mean
from .records import RunFolder, compared_run, read_json, write_json, write_text

BASELINE = "plain"


@dataclass(frozen=True)
class Pair:
    """One run of a comparison.

    Attributes:
        label: the row: a method, with its options where it was given any.
        config: what to train.
        folder: where.
        teaches: whether it is the teacher of other rows, and no row to compare.
    """

    label: str
    config: Config
    folder: RunFolder
    teaches: bool = False


def plan(configs: dict[str, Config], seeds: Sequence[int], out: Path) -> list[Pair]:
    """Every row with every seed; all rows of a seed before the next seed, so that an early look is a fair one.

    Raises: ConfigError where a folder holds a run of other settings.
    """
    pairs: dict[str, Pair] = {}
    for seed, (label, config) in itertools.product(seeds, configs.items()):
        pair = _pair(label, replace(config, seed=seed), out)
        teacher = config.teacher
        if teacher is not None and teacher.run is None and is_taught(config):
            # Trained once for all rows of a seed, instead of by each of them.
            model = Choice(name=teacher.name, options=teacher.options)
            plain = replace(config, seed=seed, model=model, method=Choice(name=BASELINE), teacher=None)
            # A row that learns from something else has a teacher that did too.
            own = [option for option in label.split(":")[1:] if is_of_a_row(option)]
            first = replace(_pair(":".join([f"teacher {teacher.name}", *own]), plain, out), teaches=True)
            check_same(first.folder, first.config)
            pairs.setdefault(str(first.folder), first)
            pair = replace(pair, config=replace(pair.config, teacher=replace(teacher, run=str(first.folder))))
        check_same(pair.folder, pair.config)
        pairs[str(pair.folder)] = pair
    return list(pairs.values())


def _pair(label: str, config: Config, out: Path) -> Pair:
    return Pair(label, resolve(written_out(config)), compared_run(out, label, config.seed))


def run(
    pairs: Sequence[Pair],
    out: Path,
    *,
    tell: Callable[[str], None],
    command: str,
    interrupted: Callable[[], bool] = no_limit,
    enter: Callable[[RunFolder], None] | None = None,
) -> dict[str, Any]:
    """Train what is missing, resume what is unfinished, and write compare.json, compare.md and at the end report.html.

    Args:
        tell: is given one line for each run.
        enter: puts a finished run into a ledger; is asked for each that is a run of a row, whenever it was trained.
        interrupted: asked all the time whether to save and stop.
    Returns: what compare.json holds.
    Raises: RunError naming the runs that failed, were not entered or are not on the ledger's page, and the page where
        it could not be written, after all others are done and written; Paused where `interrupted` said so, with the
        table of what is finished written.
    """
    failed: list[str] = []
    not_done: dict[bool, list[str]] = {}
    for number, pair in enumerate(pairs, start=1):
        where = f"[{number}/{len(pairs)}] {pair.label} seed {pair.config.seed}"
        trained = not pair.folder.finished
        if trained:
            if interrupted():
                raise Paused(f"stopped in time, before {pair.folder} had begun; the same command goes on from there")
            try:
                train_apart(pair.folder, pair.config, interrupted=interrupted)
            except RunError as error:
                failed.append(str(error))
                tell(f"{where}: failed: {error}")
                continue
        if (first := on_other_images(pairs).get(str(pair.folder))) is not None:
            failed.append(
                f"{pair.folder} was trained on other images than {first}: the data has changed in between; put those "
                "images back, or begin again with another --out"
            )
            tell(f"{where}: not compared: {failed[-1]}")
            if trained:
                # Whatever came now would be on these images too.
                break
            continue
        result = read_json(pair.folder.result)
        tell(f"{where}: final {result['final']:.2f}, ensemble {result['ensemble']:.2f} in {result['seconds']:.0f} s")
        write_summary(pairs, out, command=command)
        if enter is not None and not pair.teaches:
            try:
                enter(pair.folder)
            except (LedgerError, CheckpointError, OSError) as error:
                not_done.setdefault(isinstance(error, PageError), []).append(str(error))
                tell(f"{where}: {left_out(error)}")
    summary = write_summary(pairs, out, command=command)
    told = [f"{len(failed)} of {len(pairs)} runs failed: " + "; ".join(failed)] if failed else []
    for entered, why in sorted(not_done.items()):
        what = "are not on the page" if entered else "were not entered"
        told.append(f"{len(why)} of {len(pairs)} runs {what}: {'; '.join(dict.fromkeys(why))}")
    if any(row["n"] for row in summary["rows"] if not row["teaches"]):
        try:
            report.write_comparison(out)
        except (CheckpointError, OSError) as error:
            told.append(f"the page of the comparison was not written: {error}")
    if told:
        raise RunError("; ".join(told))
    return summary


def on_other_images(pairs: Sequence[Pair]) -> dict[str, RunFolder]:
    """The folders of finished runs that were trained on other images than the one that was finished first, and that
    one's: no pairing by seed makes them comparable. Runs that are older than the record of images are taken for the
    same.
    """
    known = [(pair.folder, known_images(pair.folder)) for pair in pairs if pair.folder.finished]
    known = [(folder, images) for folder, images in known if images is not None]
    if not known:
        return {}
    first, theirs = min(known, key=lambda each: each[0].result.stat().st_mtime_ns)
    return {str(folder): first for folder, images in known if images != theirs}


def write_summary(pairs: Sequence[Pair], out: Path, *, command: str) -> dict[str, Any]:
    """The table of what is finished so far, on the same images."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    others = on_other_images(pairs)
    for pair in pairs:
        finished = results.setdefault(pair.label, {})
        if pair.folder.finished and str(pair.folder) not in others:
            finished[pair.config.seed] = read_json(pair.folder.result)
    teachers = {pair.label for pair in pairs if pair.teaches}
    rows = [
        _row(label, finished, {} if label in teachers else results.get(BASELINE, {})) | {"teaches": label in teachers}
        for label, finished in results.items()
    ]
    first = next(pair for pair in pairs if not pair.teaches).config
    summary = {
        "command": command,
        "data": first.data.as_dict(),
        "network": first.model.as_dict(),
        "epochs": first.epochs,
        "seeds": sorted({pair.config.seed for pair in pairs}),
        "rows": rows,
    }
    write_json(out / "compare.json", summary)
    write_text(out / "compare.md", markdown(summary))
    return summary


def _row(label: str, finished: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": label, "n": len(finished)}
    for key in ("final", "ensemble", "seconds", "peak_memory_mb"):
        values = [result[key] for result in finished.values()]
        mean, deviation = mean_and_deviation(values) if values else (None, None)
        row |= {f"{key}_mean": mean, f"{key}_std": deviation}
    row["finals"] = {str(seed): result["final"] for seed, result in finished.items()}
    both = sorted(finished.keys() & baseline.keys())
    row |= {"delta_to_plain": None, "ci95": None}
    if both and label != BASELINE:
        difference = paired_difference(
            [finished[seed]["final"] for seed in both], [baseline[seed]["final"] for seed in both]
        )
        row |= {
            "delta_to_plain": difference.mean,
            "ci95": list(difference.interval) if difference.interval else None,
        }
    return row


HEADINGS = ("method", "n", "final %", "ensemble %", "delta to plain (95 % CI)", "seconds", "peak MiB")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text, under HEADINGS."""

    def spread(key: str) -> str:
        mean, deviation = row[f"{key}_mean"], row[f"{key}_std"]
        return "–" if mean is None else told_mean(mean, deviation)

    mean, interval = row["delta_to_plain"], row["ci95"]
    delta = "–" if mean is None else Difference(mean, interval).told()
    whole = [f"{row[key]:.0f}" if row[key] is not None else "–" for key in ("seconds_mean", "peak_memory_mb_mean")]
    return row["method"], str(row["n"]), spread("final"), spread("ensemble"), delta, *whole


def markdown(summary: dict[str, Any]) -> str:
    """The table for a README: test accuracy after the last epoch, mean and standard deviation over seeds."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(cells(row) for row in summary["rows"])]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\nCommand: `{summary['command']}`\n"
