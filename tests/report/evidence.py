"""Made-up runs of the paper's recipes, and the evidence page taken apart."""

import re
from collections.abc import Iterator
from typing import Any

from metadistiller import paper
from metadistiller.ledger import Hardware, Record, TeacherRun

HARDWARE = Hardware(device="cpu (x86_64)", torch="2.12.0", threads=2, precision="float32")
GPU = Hardware(device="cuda:0 (NVIDIA H200)", torch="2.12.0", threads=8, precision="bfloat16")
TAUGHT = TeacherRun(network="resnet152", epochs=200, seconds=16_000.0, final=79.5, device=HARDWARE.device)


def run(network: str, method: str, seed: int, final: float, **changed: Any) -> Record:
    """A full run; the ensemble is one point above the final output, an epoch of plain training takes 10 s."""
    alone = method in ("plain", "kd", "fitnet", "attention_transfer", "dml")
    values: dict[str, Any] = {
        "recipe": paper.run_name(network, method),
        "network": network,
        "method": method,
        "data": paper.NETWORKS[network].data,
        "seed": seed,
        "exits": () if alone else (50.0, 60.0),
        "final": final,
        "ensemble": final if alone else final + 1,
        "epochs": 200,
        "paper_epochs": 200,
        "teacher": None,
        "overrides": {},
        "command": f"metadistiller train {paper.run_name(network, method)} --seed {seed}",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "package": "0.1.0",
        "hardware": HARDWARE,
        "peak_memory_mb": 1000.0 if method == "plain" else 1250.0,
        "date": "2026-11-22T14:03:05Z",
    } | changed
    values.setdefault("seconds", values["epochs"] * (10.0 if method == "plain" else 25.0))
    return Record(**values)


# Groups of runs


def mixed() -> list[Record]:
    """Of several lengths and settings, none exactly as its recipe says."""
    return [
        run("wrn16_1", "plain", 0, 40.0, epochs=3),
        run("wrn16_1", "metadistiller", 0, 41.2, epochs=3),
        run("wrn16_1", "plain", 1, 55.0, epochs=30),
        run("vgg19_bn", "plain", 0, 30.0, epochs=3, overrides={"optim.lr": 0.05, "batch_size": 64}),
        run("vgg19_bn", "metadistiller", 0, 33.5, epochs=3, overrides={"optim.lr": 0.05, "batch_size": 64}),
        run("vgg19_bn", "dsn", 0, 31.0, epochs=3),
    ]


def machines() -> list[Record]:
    """On two machines; plain training is on one of them only."""
    gpu = Hardware(device="cuda (NVIDIA H200)", torch="2.12.0", threads=8, precision="bfloat16")
    return [
        run("resnet18", "plain", 0, 77.0),
        run("resnet18", "plain", 1, 77.0, seconds=2400.0, peak_memory_mb=1200.0),
        run("resnet18", "metadistiller", 0, 79.0, seconds=4400.0),
        run("resnet18", "kd", 0, 78.0, teacher=TAUGHT, seconds=3300.0, peak_memory_mb=2200.0),
        run("resnet18", "plain", 5, 20.0, epochs=3),
        run("resnet18", "dsn", 5, 20.0, hardware=gpu),
        run("resnet18", "metadistiller", 8, 20.0, overrides={"method.alpha": 0.3}),
    ]


def variants() -> list[Record]:
    """The first three are of the method, the others of its ablations."""
    return [
        *(run("resnet18", "metadistiller", seed, final, epochs=30) for seed, final in enumerate((60.0, 61.0, 62.0))),
        *(
            run("resnet18", "metadistiller", seed, final, epochs=30, overrides={"method.targets": "labels"})
            for seed, final in enumerate((59.5, 60.0, 60.5))
        ),
        run("resnet18", "metadistiller", 0, 58.0, epochs=30, overrides={"method.temperature": 2}),
        run("resnet18", "metadistiller", 0, 57.0, epochs=30, overrides={"method.generator_lr": 0.1}),
        run("resnet18", "metadistiller", 0, 50.0, epochs=3, overrides={"method.alpha": 0.3, "batch_size": 64}),
    ]


# The page


def section(page: str, title: str) -> str:
    (found,) = (part for part in re.split(r"^(?=##? )", page, flags=re.MULTILINE) if part.startswith(f"## {title}"))
    return found


def cells(lines: str) -> Iterator[list[str]]:
    """The rows of every Markdown table, cell by cell."""
    for line in lines.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row(page: str, title: str, *begin: str) -> list[str]:
    """What stands behind these first cells."""
    (found,) = (line for line in cells(section(page, title)) if line[: len(begin)] == list(begin))
    return found[len(begin) :]
