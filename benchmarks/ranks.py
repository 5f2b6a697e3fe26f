"""What it costs that ranks exchange their gradients: one message of ours, or torch's DistributedDataParallel.

    python benchmarks/ranks.py --json                     2 ranks with a thread each on this machine, over gloo
    torchrun --nproc-per-node 8 benchmarks/ranks.py       the same on GPUs, over NCCL

Plain training of one network on random images: forward, backward, exchange, SGD with momentum. Ways take turns in one
process; a way's time is the median of its rounds on the slowest rank.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import environment, print_json, say
from _world import run
from torch.nn.parallel import DistributedDataParallel

from metadistiller.config import Choice
from metadistiller.nn import build_network
from metadistiller.ranks import Ranks, joined, local_device

WAYS = ("none", "ours", "ddp")


def steps_of(way: str, ranks: Ranks, name: str, batch: int, device: torch.device) -> Callable[[int], None]:
    """A function that takes so many steps."""
    torch.manual_seed(0)
    network = build_network(Choice(name=name), 100).to(device)
    on_gpu = [device.index] if device.type == "cuda" else None
    trained = DistributedDataParallel(network, on_gpu, broadcast_buffers=False) if way == "ddp" else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, fused=True)
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.arange(batch, device=device) % 100

    def take(count: int) -> None:
        for _ in range(count):
            F.cross_entropy(trained(images), labels).div(ranks.world).backward()
            if way == "ours":
                ranks.sum_([p.grad for p in network.parameters() if p.grad is not None])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return take


def measured(ranks: Ranks, name: str, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of each way, on this rank."""
    device = local_device("cuda" if torch.cuda.is_available() and "RANK" in os.environ else "cpu")
    ways = {way: steps_of(way, ranks, name, batch, device) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, take in ways.items():
            ranks.wait()
            began = time.perf_counter()
            take(steps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            # The first turn warms up.
            seconds[way] += [(time.perf_counter() - began) / steps] if turn else []
    slowest = torch.tensor([statistics.median(seconds[way]) for way in WAYS], device=device)
    return dict(zip(WAYS, ranks.gathered(slowest).amax(0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=32, help="images of a rank")
    parser.add_argument("--ranks", type=int, default=2, help="without torchrun")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    given = parser.parse_args()
    arguments = given.network, given.batch, given.steps, given.rounds
    if "RANK" in os.environ:
        with joined("auto") as ranks:
            found, world, first = measured(ranks, *arguments), ranks.world, ranks.first
    else:
        found, world, first = run(measured, given.ranks, *arguments, seconds=600)[0], given.ranks, True
    if not first:
        return
    device = torch.device("cuda" if "RANK" in os.environ and torch.cuda.is_available() else "cpu")
    say(f"{given.network}, {world} ranks with {given.batch} images each: " + str(found))
    values = {
        "environment": environment(device),
        "network": given.network,
        "ranks": world,
        "images_of_a_rank": given.batch,
        "seconds_per_step": found,
        "ours_over_none": found["ours"] / found["none"],
        "ddp_over_none": found["ddp"] / found["none"],
        "ours_over_ddp": found["ours"] / found["ddp"],
    }
    if given.json:
        print_json(values)


if __name__ == "__main__":
    main()
