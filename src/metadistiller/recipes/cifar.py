"""CIFAR-10 and CIFAR-100 at the paper's setting, sec. 4.1 and 4.2.

What the paper leaves out (batch, weight decay, momentum, augmentation) is what fits its baselines best; see
docs/method.md.
"""

from ..config import Choice, Config


def _paper(data: str) -> Config:
    return Config(data=Choice(name=data), model=Choice(name="resnet18"), method=Choice(name="metadistiller"))


def cifar10() -> Config:
    """CIFAR-10 with the schedule of the paper's CIFAR-100 runs; the paper has no number.

    Command: metadistiller train cifar10 --data.root FOLDER
    """
    return _paper("cifar10")


def cifar100() -> Config:
    """CIFAR-100, ResNet18, MetaDistiller: 200 epochs, learning rate x0.1 at 80 and 140. Paper: 79.05, ensemble 80.05.

    Command: metadistiller train cifar100 --data.root FOLDER
    """
    return _paper("cifar100")


NAMES = {"cifar10": cifar10, "cifar100": cifar100}
