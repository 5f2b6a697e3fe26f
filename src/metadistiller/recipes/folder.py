"""Photographs in class folders."""

from ..config import Choice, Config, Optim


def folder() -> Config:
    """Your own photographs, from scratch: a ResNet18 for images of 64 pixels and up, a cosine schedule with warm-up.

    Command: metadistiller train --data photos/
    """
    return Config(
        data=Choice(name="folder"),
        model=Choice(name="resnet18"),
        method=Choice(name="metadistiller", options={"meta_every_epochs": 1}),
        optim=Optim(lr=0.02, schedule="cosine", warmup_epochs=3),
        epochs=60,
        batch_size=32,
    )


NAMES = {"folder": folder}
