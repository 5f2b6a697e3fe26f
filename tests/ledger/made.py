"""A record with every field, and run folders that records are made of, without a run."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metadistiller.config import Config
from metadistiller.ledger import Hardware, Images, Record, TargetsAt, TeacherRun
from metadistiller.records import RunFolder, write_json

RECORD = Record(
    recipe="cifar100_resnet18_kd",
    network="resnet18",
    method="kd",
    data="cifar100",
    seed=0,
    exits=(61.5, 70.25),
    final=77.31,
    ensemble=77.31,
    epochs=200,
    paper_epochs=200,
    teacher=TeacherRun(network="resnet152", epochs=200, seconds=1e5, final=79.5, device="cpu (x86_64)"),
    overrides={"method.alpha": 0.7, "optim.milestones": [0.5, 0.75]},
    command="metadistiller train cifar100_resnet18_kd --data.root FOLDER",
    commit="0" * 40,
    package="0.1.0",
    hardware=Hardware(device="cpu (x86_64)", torch="2.12.0", threads=2, precision="float32"),
    seconds=12345.678,
    peak_memory_mb=1100.5,
    date="2026-11-22T14:03:05Z",
)
IMAGES = Images(train=50_000, test=10_000, classes=100, train_sha256="0" * 64, test_sha256="1" * 64)
SETTINGS: dict[str, Any] = {
    "data": {"name": "cifar100", "train_per_class": None},
    "model": {"name": "resnet18", "width": None},
    "method": {"name": "kd", "alpha": 0.7},
    "teacher": {"name": "resnet152", "width": None},
    "optim": {"lr": 0.1, "milestones": [0.5, 0.75]},
    "batch_size": 128,
}
FIRST = TargetsAt(
    epoch=0,
    generator_steps=391,
    accuracy=(1.0, 100.0),
    entropy=(4.5, 0.25),
    confidence=(0.01, 1.0),
    heldout_loss=None,
    target_gain=None,
    label_gain=None,
    target_alignment=None,
    label_alignment=None,
)
LAST = replace(
    FIRST,
    epoch=199,
    generator_steps=None,
    heldout_loss=0.5,
    target_gain=(-0.002, 1.5),
    label_gain=(0.03, 0.0),
    target_alignment=(-1, 0.25),
    label_alignment=(0.5, 1.0),
)
ENVIRONMENT = {
    "package": "0.1.0",
    "commit": "c" * 40,
    "torch": "2.12.0",
    "python": "3.11.7",
    "system": "Linux",
    "device": "cpu (x86_64)",
    "threads": 2,
    "precision": "float32",
    "memory_format": "contiguous",
}
TAUGHT = {"network": "resnet152", "epochs": 3, "seconds": 70.5, "final": 30.25, "sha256": "00", "device": "cuda:0 (H)"}
NAMES_OF_KD = {"data": "cifar100", "model": "resnet18", "method": "kd", "teacher": "resnet152"}


def finished(folder: Path, config: Config, *, teacher: dict[str, Any] | None = None) -> RunFolder:
    """A run folder with what a record is made of."""
    run = RunFolder.create(folder, config.as_dict())
    if teacher is not None:
        run.append_event("teacher", **teacher)
    command = "metadistiller train r --data.root /home/somebody/data --out /tmp/x"
    run.append_event("start", environment=ENVIRONMENT | {"threads": 64}, command=command, images=asdict(IMAGES))
    run.append_event("resume", environment=ENVIRONMENT, command="metadistiller resume /tmp/x")
    names = {"method": config.method.name, "network": config.model.name, "data": config.data.name}
    scores = {"exits": [50.0], "final": 60.5, "ensemble": 61.0, "seconds": 99.5, "peak_memory_mb": 512.0}
    write_json(run.result, {**names, **scores, "epochs": config.epochs, "seed": config.seed})
    run.write_rows([{"epoch": epoch, "loss": 1.0} for epoch in range(config.epochs)])
    os.utime(run.result, (1_795_356_185, 1_795_356_185))
    return run
