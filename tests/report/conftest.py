"""Run folders as training leaves them, and records of a ledger, with made-up numbers."""

import base64
import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metadistiller import outcomes
from metadistiller.config import Choice, Config
from metadistiller.ledger import Record
from metadistiller.outcomes import Outcomes
from metadistiller.records import RunFolder, write_json

from .evidence import run

FakeRun = Callable[..., RunFolder]

EPOCHS = 12
COUNT = 1000


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(score) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def picture(draw: random.Random) -> str:
    image = Image.new("RGB", (8, 8))
    image.putdata([(draw.randrange(256), draw.randrange(256), 90) for _ in range(64)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def row(epoch: int, *, num_exits: int, draw: random.Random) -> dict[str, Any]:
    fall = math.exp(-epoch / 5)
    values: dict[str, Any] = {"epoch": epoch, "lr": 0.1 * 0.1 ** (epoch // 5), "loss": 1 + 4 * fall}
    if num_exits:
        values["generator_lr"] = 0.001
    values["final_hard"] = 0.3 + 1.5 * fall + 0.05 * draw.random()
    for k in range(1, num_exits + 1):
        values[f"exit_{k}_hard"] = 0.9 - 0.2 * k + 1.5 * fall
        values[f"exit_{k}_soft"] = 0.3 + fall / k
        values[f"target_{k}_entropy"] = 1.6 - 0.4 * k + fall
        values[f"target_{k}_confidence"] = 0.3 + 0.15 * k - 0.2 * fall
        values[f"target_{k}_accuracy"] = 60 + 8 * k - 30 * fall
    if num_exits:
        values["heldout_loss"] = "" if epoch % 5 else 0.5 + fall
        values["generator_gradient_norm"] = "" if epoch % 5 else 0.02 + 0.1 * fall
    if epoch % 2:
        for k in range(1, num_exits + 1):
            values[f"exit_{k}"] = 60 + 6 * k - 40 * fall
        values |= {"final": 85 - 40 * fall, "ensemble": 87 - 40 * fall, "test_loss": 0.6 + 1.4 * fall}
    return values


def confusion(num_classes: int, *, right: int, draw: random.Random) -> list[list[int]]:
    """Counts whose diagonal sums up to `right` and everything to COUNT."""
    cells = [[0] * num_classes for _ in range(num_classes)]
    for image in range(COUNT):
        true = image % num_classes
        wrong = (true + 1 + min(int(draw.expovariate(0.7)), num_classes - 2)) % num_classes
        cells[true][true if image < right else wrong] += 1
    return cells


def answers(num_classes: int, *, right: list[int]) -> Outcomes:
    """Logits of K outputs that have so many of COUNT images right, the deeper the more certain."""
    labels = np.arange(COUNT) % num_classes
    drawn = np.random.default_rng(0).normal(size=(len(right), COUNT, num_classes))
    for k, top1 in enumerate(right):
        answered = np.where(np.arange(COUNT) < top1, labels, (labels + 1) % num_classes)
        drawn[k, np.arange(COUNT), answered] = drawn[k].max(1) + 0.5 + k
    return Outcomes(
        logits=drawn.astype(np.float32),
        labels=labels,
        index=np.arange(COUNT),
        total=COUNT,
        trunk_macs=tuple(1_000_000 * (k + 1) for k in range(len(right))),
        exit_macs=(200_000,) * (len(right) - 1),
    )


def mistaken(draw: random.Random, num_classes: int, *, num_exits: int) -> dict[str, Any]:
    images = [
        {
            "png": picture(draw),
            "index": 7 * number,
            "label": number,
            "answer": (number + 1) % num_classes,
            "confidence": 0.99 - 0.1 * number,
            "label_share": 0.005,
            "exits": [{"answer": (number + k) % num_classes, "confidence": 0.5 + 0.1 * k} for k in range(num_exits)],
        }
        for number in range(3)
    ]
    return {"count": COUNT, "images": images}


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A function that writes a finished run into a new folder: fake_run(exits=[...], classes=[...])."""

    def write_run(
        *,
        exits: list[int] | None = None,
        classes: list[str] | None = None,
        path: Path | None = None,
        method: str | None = None,
        seed: int = 0,
        final: int = 853,
    ) -> RunFolder:
        draw = random.Random(0)
        exits = [652, 731, 802] if exits is None else exits
        classes = [f"class {index}" for index in range(10)] if classes is None else classes
        right = {f"exit {k}": top1 for k, top1 in enumerate(exits, start=1)}
        right |= {"final": final, "ensemble": 871 if exits else final}
        method = method or ("md" if exits else "plain")
        config = Config(
            data=Choice(name="digits"),
            model=Choice(name="resnet18"),
            method=Choice(name=method),
            epochs=EPOCHS,
            seed=seed,
        )
        folder = RunFolder.create(path or tmp_path_factory.mktemp("run"), config.as_dict())
        folder.append_event(
            "start",
            command="metadistiller train digits --epochs 12",
            changed={"epochs": EPOCHS},
            epoch=0,
            step=0,
            environment={"torch": "2.12.0", "python": "3.11.7", "device": "cpu", "threads": 2},
        )
        for epoch in range(EPOCHS):
            meta = bool(exits) and epoch % 5 == 0
            folder.append_event(
                "epoch",
                epoch=epoch,
                seconds=30.0 * (epoch + 1),
                epoch_seconds=55.0 if meta else 25.0,
                images_per_second=900.0 if meta else 2000.0 + draw.randrange(50),
                objectives=["student", "generator"] if meta else ["student"],
            )
        folder.append_event("finish", seconds=372.4, peak_memory_mb=1234.5)
        folder.write_rows([row(epoch, num_exits=len(exits), draw=draw) for epoch in range(EPOCHS)])
        write_json(
            folder.evaluation,
            {
                "count": COUNT,
                "classes": classes,
                "outputs": [{"name": output, "top1": top1, "top5": top1 + 100} for output, top1 in right.items()],
                "loss": 0.61,
                "confusion": confusion(len(classes), right=right["final"], draw=draw),
            },
        )
        images = [
            {
                "png": picture(draw),
                "index": 10 * label,
                "label": label,
                "final": softmax([6.0 * (index == label) for index in range(len(classes))]),
                "targets": [
                    softmax([k * (index == label) + draw.random() for index in range(len(classes))])
                    for k in range(1, len(exits) + 1)
                ],
                "exits": [
                    softmax([2 * k * (index == label) + draw.random() for index in range(len(classes))])
                    for k in range(1, len(exits) + 1)
                ],
            }
            for label in range(3)
        ]
        entropy = {
            "count": COUNT,
            "targets": [2.0 - 0.3 * k for k in range(len(exits))],
            "exits": [1.5 - 0.25 * k for k in range(len(exits))],
            "final": 0.125,
        }
        write_json(folder.soft_targets, {"classes": classes, "images": images, "entropy": entropy})
        mistakes = mistaken(draw, len(classes), num_exits=len(exits))
        write_json(folder.mistakes, {"classes": classes, **mistakes, "wrong": COUNT - final})
        outcomes.write(answers(len(classes), right=[*exits, final]), folder.outcomes)
        write_json(
            folder.result,
            {
                "method": method,
                "network": "resnet18",
                "data": "digits",
                "epochs": EPOCHS,
                "exits": [100 * top1 / COUNT for top1 in exits],
                "final": 100 * right["final"] / COUNT,
                "ensemble": 100 * right["ensemble"] / COUNT,
                "seconds": 372.4,
                "peak_memory_mb": 1234.5,
                "seed": seed,
            },
        )
        return folder

    return write_run


@pytest.fixture
def full() -> list[Record]:
    """Three seeds of three methods, exactly as the recipes say."""
    finals_of = {
        "plain": (77.0, 78.0, 77.8),
        "self_distillation": (78.1, 78.3, 78.9),
        "metadistiller": (79.0, 79.6, 79.5),
    }
    return [
        run("resnet18", method, seed, final)
        for method, finals in finals_of.items()
        for seed, final in enumerate(finals)
    ]
