"""The embedded handwritten digits."""

from ..config import Choice, Config, Optim


def digits() -> Config:
    """MetaDistiller on 1,000 handwritten digits in under a minute on two processor cores.

    Command: metadistiller train
    """
    return Config(
        data=Choice(name="digits"),
        model=Choice(name="resnet10", options={"width": 16}),
        method=Choice(name="metadistiller"),
        optim=Optim(lr=0.05, weight_decay=5e-4, schedule="cosine", warmup_epochs=1),
        epochs=15,
        batch_size=64,
    )


NAMES = {"digits": digits}
