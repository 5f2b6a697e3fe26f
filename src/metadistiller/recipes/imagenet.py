"""ImageNet, at the paper's setting but for the length, sec. 4.3."""

from ..config import Choice, Config, Optim


def imagenet() -> Config:
    """ImageNet, ResNet50, MetaDistiller: torchvision's 90 epochs, x0.1 at 30 and 60. Paper: 76.11 after 200 epochs.

    Command: metadistiller train --data imagenet --data.root FOLDER

    The paper drops the rate at 80 and 140 of its 200 epochs: --epochs 200 --optim.milestones [0.4,0.7]. Its batch,
    weight decay and augmentation are unknown; those of torchvision's reference are taken.
    """
    return Config(
        data=Choice(name="imagenet"),
        model=Choice(name="resnet50", options={"stem": "imagenet"}),
        # Mirroring the stages would make the generator larger than the network.
        method=Choice(name="metadistiller", options={"generator_width": 128}),
        optim=Optim(lr=0.1, weight_decay=1e-4, milestones=(1 / 3, 2 / 3)),
        epochs=90,
        batch_size=256,
        eval_batch_size=256,
    )


NAMES = {"imagenet": imagenet}
