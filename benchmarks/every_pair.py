"""Every network of the paper with every method, at full size, 20 iterations on one batch of real CIFAR-100 images.

Usage:
    python benchmarks/every_pair.py CIFAR100 [--batch 8] [--lr 0.01] [--networks A,B] [--methods A,B] > result.json

Not a measurement of accuracy: it shows that each pair trains (the loss is finite and lower after 20 updates of each
player on the same batch) and that what ships is the plain network (same keys, and bit for bit the logits of the
trained student's last output). The teacher of kd, fitnet and attention_transfer and the peer of dml are ResNet152; the
teacher is not trained, but its batch statistics are those of the images. Generators have the widths of the recipes.
FitNet is run one-stage and two-stage, 10 of the 20 iterations being hints.

Prints one JSON object; a line for each pair goes to standard error.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from metadistiller import paper
from metadistiller.assemble import assemble
from metadistiller.building import load_data
from metadistiller.config import Choice, Config, Optim, Teacher
from metadistiller.data import Dataset, seeded
from metadistiller.engine.optim import PlayerOptimizer
from metadistiller.engine.train import Job
from metadistiller.nn import Backbone, build_network

NETWORKS = [name for name, network in paper.NETWORKS.items() if network.data == "cifar100" and name[-4:] != "x0_5"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {}),
    "dsn": ("dsn", {}),
    "self_distillation": ("self_distillation", {}),
    "metadistiller": ("metadistiller", {}),
    "kd": ("kd", {}),
    "fitnet": ("fitnet", {"hint_epochs": 1}),
    "fitnet one-stage": ("fitnet", {"two_stage": False}),
    "attention_transfer": ("attention_transfer", {}),
    "dml": ("dml", {}),
}
STEPS = 20


def config_of(root: str, network: str, method: str, options: dict[str, Any], batch: int, lr: float) -> Config:
    width = paper.NETWORKS[network].generator_width
    with_width = {**options, "generator_width": width} if method == "metadistiller" else options
    return Config(
        data=Choice(name="cifar100", options={"root": root, "train_per_class": 2}),
        model=Choice(name=network),
        method=Choice(name=method, options=with_width),
        teacher=Teacher(name=paper.TEACHER) if method in ("kd", "fitnet", "attention_transfer", "dml") else None,
        # A batch of 8 is no batch of 128: the rate that goes with it is smaller.
        optim=Optim(lr=lr, schedule="constant"),
        epochs=2,
        batch_size=batch,
    )


def untrained_teacher(dataset: Dataset, images: torch.Tensor) -> Backbone:
    """With the statistics of the images, for without any its activations would grow from layer to layer."""
    with seeded(0, "teacher"):
        network = build_network(Choice(name=paper.TEACHER), dataset.num_classes)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network


def iterate(job: Job) -> list[float]:
    """The student's loss at each of the steps, on the same batches throughout."""
    optimizers = {name: PlayerOptimizer(player, job.config.optim) for name, player in job.method.players().items()}
    rates = {name: optimizer.lr for name, optimizer in optimizers.items()}
    job.method.train()
    losses = []
    for step in range(STEPS):
        for objective in job.method.objectives(epoch=2 * step // STEPS):
            batch = job.batches.batch(objective.stream, epoch=0, step=0)
            with job.machine.autocast():
                found = objective.loss(batch, rates)
            optimizers[objective.of].step(found.total, factor=1.0)
            if objective.of == "student":
                losses.append(found.parts["loss"].item())
    return losses


def ships_plain(job: Job) -> bool:
    """Same keys as the plain network, and bit for bit the same answers from its weights alone."""
    plain = build_network(job.config.model, job.dataset.num_classes)
    plain.load_state_dict(job.method.deployable().state_dict())
    images, _ = job.batches.batch(job.method.objectives(0)[0].stream, epoch=0, step=0)
    job.machine.place(plain)
    with torch.no_grad():
        return torch.equal(plain.eval()(images), job.method.eval().exits(images)[-1])


def falls(label: str, losses: list[float]) -> bool:
    """Within each phase, of which two-stage FitNet has two with losses of their own."""
    half = STEPS // 2
    phases = [losses[:half], losses[half:]] if label == "fitnet" else [losses]
    return all(phase[-1] < phase[0] for phase in phases)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--lr", type=float, default=0.01)
    given = parser.parse_args()
    rows = []
    dataset, teacher, environment = None, None, None
    for network in given.networks.split(","):
        for label in given.methods.split(","):
            method, options = METHODS[label]
            config = config_of(given.root, network, method, options, given.batch, given.lr)
            dataset = dataset or load_data(config.data)
            job = assemble(config, dataset)
            if method in ("kd", "fitnet", "attention_transfer"):
                if teacher is None:
                    images, _ = job.batches.batch(job.method.objectives(0)[0].stream, epoch=0, step=0)
                    teacher = untrained_teacher(dataset, images)
                job = assemble(replace(config), dataset, teacher)
            environment = environment or job.machine.describe()
            began = time.perf_counter()
            losses = iterate(job)
            row = {
                "network": network,
                "method": label,
                "first_loss": round(losses[0], 4),
                "last_loss": round(losses[-1], 4),
                "losses": [round(loss, 4) for loss in losses],
                "finite": all(map(torch.isfinite, map(torch.tensor, losses))),
                "falls": falls(label, losses),
                "ships_plain": ships_plain(job),
                "seconds": round(time.perf_counter() - began, 2),
            }
            rows.append(row)
            told = {key: value for key, value in row.items() if key != "losses"}
            print(json.dumps(told), file=sys.stderr, flush=True)
    good = all(row["finite"] and row["falls"] and row["ships_plain"] for row in rows)
    print(
        json.dumps(
            {
                "batch": given.batch,
                "lr": given.lr,
                "steps": STEPS,
                "environment": environment,
                "good": good,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
