"""Photographs that a table lists, parquet files or chunks of litdata hold, or the Hugging Face hub has."""

from ..config import Choice, Config, Optim


def _photos(name: str) -> Config:
    # As in `folder`; the maps of 224 pixels are large.
    method = {"meta_every_epochs": 1, "heldout": "all", "generator_kl_weight": 0.1, "generator_width": 128}
    return Config(
        data=Choice(name=name),
        model=Choice(name="resnet18", options={"stem": "imagenet"}),
        method=Choice(name="metadistiller", options=method),
        optim=Optim(lr=0.02, schedule="cosine", warmup_epochs=3),
        epochs=60,
        batch_size=32,
    )


def table() -> Config:
    """Photographs that a table lists, from scratch: a ResNet18 at 224 pixels, a cosine schedule with warm-up.

    Command: metadistiller train --data labels.csv
    """
    return _photos("table")


def parquet() -> Config:
    """Photographs in parquet files, from scratch: a ResNet18 at 224 pixels, a cosine schedule with warm-up.

    Command: metadistiller train --data FOLDER
    """
    return _photos("parquet")


def stream() -> Config:
    """Photographs in chunks of litdata, from scratch: a ResNet18 at 224 pixels, a cosine schedule with warm-up.

    Command: metadistiller train --data FOLDER
    """
    return _photos("stream")


def hf() -> Config:
    """Photographs of the Hugging Face hub, from scratch: a ResNet18 at 224 pixels, a cosine schedule with warm-up.

    Food-101 by itself; `--data hf:OWNER/NAME` brings the same settings to any other data set.
    Command: metadistiller train --data hf:ethz/food101
    """
    return _photos("hf:ethz/food101")


NAMES = {"table": table, "parquet": parquet, "stream": stream, "hf": hf}
