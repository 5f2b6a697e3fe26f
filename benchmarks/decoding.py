"""Images per second out of JPEG files, as training sees them: threads here, against torchvision in a DataLoader.

Usage:
    python benchmarks/decoding.py FOLDER...        each with train/CLASS/ and val/CLASS/

Both sides do what ImageNet's usual recipe does: a random resized crop to 224 pixels, a mirror, normalised float32
batches of 64 on the processor. Here that is the data set `imagenet` with 1 and 2 decoding threads; there it is
ImageFolder with RandomResizedCrop(224), RandomHorizontalFlip, ToTensor and Normalize, in a DataLoader with 1 and 2
worker processes that live through all epochs. Torch has one thread of its own. The four take turns; the first turn
warms up and is thrown away, and what is given is the median over the others, with the least and the largest. Beside it
stands the time on any processor core per image, over all turns and worker processes, which others on the machine change
least.

Prints one JSON object.
"""

import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from PIL import Image, features
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from metadistiller.data import Batches, Train, imagenet

BATCH, TURNS, IMAGES = 64, 7, 1000


def ours(folder: Path, workers: int) -> Callable[[int], int]:
    """A function that goes through so many epochs and counts images."""
    data = imagenet.build(imagenet.Options(root=str(folder), workers=workers))
    batches = Batches(data.training_view(seed=0, device=torch.device("cpu")), batch_size=BATCH)

    def epochs(count: int) -> int:
        places = [(epoch, step) for epoch in range(count) for step in range(batches.steps_per_epoch)]
        return sum(len(batches.batch(Train(), epoch=epoch, step=step)[1]) for epoch, step in places)

    return epochs


def theirs(folder: Path, workers: int) -> Callable[[int], int]:
    show = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder / "train", show), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    return lambda count: sum(len(labels) for _ in range(count) for _, labels in loader)


def processor_seconds(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def rates(folder: Path) -> dict[str, Any]:
    images = [path for path in (folder / "train").rglob("*") if path.is_file()]
    sides = [Image.open(path).size for path in images]
    epochs = -(-IMAGES // len(images))
    runs = {f"{workers} threads": ours(folder, workers) for workers in (1, 2)}
    runs |= {f"{workers} DataLoader processes": theirs(folder, workers) for workers in (1, 2)}
    seen: dict[str, list[float]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for _ in range(TURNS + 1):
        for name, run in runs.items():
            began, busy = time.perf_counter(), processor_seconds(resource.RUSAGE_SELF)
            count = run(epochs)
            seen[name].append(count / (time.perf_counter() - began))
            seconds[name] += processor_seconds(resource.RUSAGE_SELF) - busy
    del run
    for name in seen:
        # The time of a worker process is known once it has ended.
        busy = processor_seconds(resource.RUSAGE_CHILDREN)
        del runs[name]
        gc.collect()
        seconds[name] += processor_seconds(resource.RUSAGE_CHILDREN) - busy
    shown = epochs * len(images) * (TURNS + 1)
    return {
        "images": len(images),
        "median_size": [statistics.median(side[axis] for side in sides) for axis in (0, 1)],
        "processor_milliseconds_per_image": {name: round(1000 * busy / shown, 2) for name, busy in seconds.items()},
        "images_per_second": {
            name: {
                "median": round(statistics.median(found[1:])),
                "range": [round(min(found[1:])), round(max(found[1:]))],
            }
            for name, found in seen.items()
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    environment = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
    }
    print(
        json.dumps({"environment": environment, "folders": {Path(arg).name: rates(Path(arg)) for arg in sys.argv[1:]}})
    )
