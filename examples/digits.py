"""What the four loops train on: the package's own digits, and a small network of torchvision's kind."""

import argparse

import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from metadistiller.building import load_data
from metadistiller.config import Choice
from metadistiller.data import Batch, Batches, Halves, Train

# Of each step the student's batch, and the pair that the generator learns from: no image is in both of the pair.
Step = tuple[Batch, tuple[Batch, Batch]]


def network(seed: int = 0) -> nn.Module:
    """Any image classifier would do."""
    torch.manual_seed(seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


def steps(count: int, *, batch_size: int = 32, seed: int = 0) -> list[Step]:
    """The first steps of an epoch. A DataLoader of your own, and a second one over held-out images, do as well."""
    images = load_data(Choice(name="digits")).training_view(seed=seed, device=torch.device("cpu"))
    batches = Batches(images, batch_size=batch_size)
    return [
        (batches.batch(Train(), epoch=0, step=step), batches.batch(Halves(), epoch=0, step=step))
        for step in range(count)
    ]


def steps_asked_for(description: str | None) -> list[Step]:
    """As many as `--steps` says on the command line."""
    parser = argparse.ArgumentParser(description=(description or "").split(":")[0])
    parser.add_argument("--steps", type=int, default=20)
    return steps(parser.parse_args().steps)
