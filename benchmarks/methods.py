"""Cost of each method, read from the runs of a comparison: images per second, and a meta epoch against a plain one.

Usage:
    metadistiller compare --data FOLDER --model wrn16_1 --epochs 2 --seeds 1 --out runs/cost
    python benchmarks/methods.py runs/cost

Prints one JSON object. Rates are over the training steps of an epoch, without evaluation and checkpoints. Epoch 0 warms
up: for methods whose epochs are all alike the last epoch counts; a meta epoch is one in which another player than the
student moved, and has no second one to warm up for, so the first epoch of every method is given beside it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from metadistiller.records import RunFolder


def epochs(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.read_events() if event["event"] == "epoch"]


def costs(out: Path) -> dict[str, Any]:
    """Per method: seconds and images per second of each epoch; ratios to plain's epoch of the same number."""
    runs = {path.parent.name: RunFolder(path) for path in sorted(out.glob("*/s0"))}
    seconds = {name: epochs(run) for name, run in runs.items()}
    environment = next(event["environment"] for run in runs.values() for event in run.read_events())
    table: dict[str, Any] = {}
    for name, found in seconds.items():
        table[name] = {
            "epoch_seconds": [round(event["epoch_seconds"], 2) for event in found],
            "images_per_second": [round(event["images_per_second"], 1) for event in found],
            "meta_epoch": [event["objectives"] != ["student"] for event in found],
            "seconds_vs_plain": [
                round(event["epoch_seconds"] / plain["epoch_seconds"], 3)
                for event, plain in zip(found, seconds["plain"], strict=True)
            ],
        }
    return {"environment": environment, "methods": table}


if __name__ == "__main__":
    print(json.dumps(costs(Path(sys.argv[1]))))
