"""The command that lets easy images leave early."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._words import parse, parser_of, print_table

if TYPE_CHECKING:
    from ..outcomes.chosen import EarlyExit, Row


def calibrate(words: list[str]) -> None:
    """When exits of a run may answer, for a target: metadistiller calibrate RUN [--max-loss 0.5 | --mean-macs 60%]"""
    parser = parser_of(calibrate)
    parser.add_argument("run", help="the folder of a finished run of a method with early exits")
    parser.add_argument("--max-loss", type=float, help="percentage points of accuracy that may be lost; default 0.5")
    parser.add_argument(
        "--mean-macs", help="mean multiply-accumulates of an image instead: 40M, 1.2G, or 60%% of the plain network's"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.5,
        help="share of the test images that choose; the others are measured on; default 0.5",
    )
    parser.add_argument("--no-latency", action="store_true", help="do not measure how long the networks take")
    parser.add_argument("--json", action="store_true", help="print what RUN/early_exit.json holds")
    given = parse(parser, words)
    from ..calibrating import calibrate as calibrated
    from ..engine.machine import keep_freed_memory

    # Large batches would otherwise be timed with the system's pages in them, the plain network's too.
    keep_freed_memory()
    found = calibrated(
        given.run,
        max_loss=given.max_loss,
        mean_macs=given.mean_macs,
        share=given.held_out,
        latency=not given.no_latency,
    )
    if given.json:
        print(json.dumps(json.loads(found.record.read_text(encoding="utf-8"))))
        return
    _print(found.found)
    print(found.record)
    print(found.network)


def _print(found: "EarlyExit") -> None:
    from ..outcomes import exit_names
    from ..outcomes.policy import Loss

    print_table(
        f"thresholds for {found.target}: {found.held_out.told}",
        ("network", "accuracy %", "points lost (95 %)", "mean MACs", "saved %", "answered by each exit, final, %"),
        [tuple(_cells(row)) for row in found.measured],
    )
    if found.machine is not None:
        print_table(
            f"milliseconds a batch, and times those of the plain network, on {found.machine['device']}, "
            f"{found.machine['threads']} threads, {found.machine['precision']}, {found.machine['memory_format']}",
            ("network", *(f"batch {latency.batch}" for latency in found.plain.latency)),
            [(row.name, *(f"{each.ms:.2f} ({each.ratio:.2f})" for each in row.latency)) for row in found.measured],
        )
    for name, threshold in zip(exit_names(len(found.policy.thresholds)), found.policy.thresholds, strict=True):
        print(f"{name} {'is not used' if threshold is None else f'answers from {threshold:.4f} on'}")
    count, allowed = found.held_out.chosen_on, found.target.max_loss
    if allowed is not None and all(threshold is None for threshold in found.policy.thresholds):
        print(
            f"no exit is used: {count:,} images cannot show a loss below {Loss(count, 0, 0).error:.2f} points, and no "
            f"exit is shown to stay within {allowed:g}; take a larger --max-loss, or more test images"
        )
    print(
        f"{found.proved['same']:,} of {found.proved['images']:,} images: the network itself answers as the table says"
    )


def _cells(row: "Row") -> Iterator[str]:
    yield row.name
    yield f"{row.accuracy:.2f}"
    if row.loss is None or row.interval is None:
        yield ""
    else:
        yield f"{row.loss:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"
    yield f"{row.macs:,.0f}"
    yield f"{row.saved:.1f}"
    yield " ".join(f"{100 * count / sum(row.left):.1f}" for count in row.left)
