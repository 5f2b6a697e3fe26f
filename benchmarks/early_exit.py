"""What answering early saves: multiply-accumulates and time, for so many points of accuracy.

Usage:
    python benchmarks/early_exit.py --json                       # trains on the digits first, some minutes
    python benchmarks/early_exit.py --run runs/a --json          # or takes a finished run of a method with exits

A part of the run's test images chooses the thresholds and the others are measured on, as `metadistiller calibrate` has
it; that command's files in the run's folder are written anew. Times are of batches of 1, 32 and 256 images, beside the
plain network in the same process, format and turn; what is quoted is the ratio.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _measure import environment, print_json, rounded, say

import metadistiller
from metadistiller.config import Choice
from metadistiller.engine.machine import keep_freed_memory
from metadistiller.outcomes.chosen import EarlyExit, Row
from metadistiller.records import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", help="a finished run of a method with exits; without it one is trained on the digits")
    parser.add_argument("--max-loss", type=float, default=0.5, help="percentage points of accuracy; default 0.5")
    parser.add_argument("--held-out", type=float, default=0.5, help="share of the test images that choose; default 0.5")
    parser.add_argument("--quick", action="store_true", help="a network of a few channels, trained for an epoch")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    # As the command does, for the plain network too.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(given.run) if given.run else _trained(Path(folder) / "run", quick=given.quick)
        found = metadistiller.calibrate(run, max_loss=given.max_loss, share=given.held_out).found
        result = summary(found, read_json(run / "result.json"))
    if given.json:
        print_json(rounded(result))
        return
    for row in result["rows"]:
        say(f"{row['name']}: {row['accuracy']:.2f} %, {row['saved']:.1f} % of MACs saved, times {row['time']}")


def _trained(folder: Path, *, quick: bool) -> Path:
    width, epochs = (2, 1) if quick else (32, 20)
    config = replace(
        metadistiller.recipe("digits"), model=Choice(name="resnet18", options={"width": width}), epochs=epochs
    )
    return metadistiller.train(config, folder, quiet=True).folder


def summary(found: EarlyExit, result: dict[str, Any]) -> dict[str, Any]:
    """What is printed: `rows` has the plain network first and what was asked for second."""
    return {
        "run": {key: result[key] for key in ("data", "network", "method", "epochs", "seed", "final", "exits")},
        "max_loss": found.target.max_loss,
        "chosen_on": found.held_out.chosen_on,
        "measured_on": found.held_out.measured_on,
        "temperatures": found.policy.temperatures,
        "thresholds": found.policy.thresholds,
        "rows": [_row(row) for row in found.measured],
        "format": {key: (found.machine or {})[key] for key in ("precision", "memory_format", "device", "threads")},
        "environment": environment(torch.device("cpu")),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "accuracy": row.accuracy,
        "points_lost": row.loss,
        "interval": row.interval,
        "macs": row.macs,
        "saved": row.saved,
        "left": row.left,
        "ms": {each.batch: each.ms for each in row.latency},
        "time": {each.batch: each.ratio for each in row.latency},
    }


if __name__ == "__main__":
    main()
