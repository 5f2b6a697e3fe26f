"""Photographs in class folders."""

from ..config import Choice, Config, Optim


def folder() -> Config:
    """Your own photographs, from scratch: a ResNet18 for images of 64 pixels and up, a cosine schedule with warm-up.

    Command: metadistiller train --data photos/
    """
    return Config(
        data=Choice(name="folder"),
        model=Choice(name="resnet18"),
        # With so many steps of the generator its targets need holding, and by the loss of all outputs they come to say
        # something of the image (docs/notes/2026-11-29-what-generators-learn.md).
        method=Choice(
            name="metadistiller", options={"meta_every_epochs": 1, "heldout": "all", "generator_kl_weight": 0.1}
        ),
        optim=Optim(lr=0.02, schedule="cosine", warmup_epochs=3),
        epochs=60,
        batch_size=32,
    )


NAMES = {"folder": folder}
