"""What a trained network says of image files: class and probability, and which early exit would have sufficed."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .assemble import restore
from .config import require
from .data import SUFFIXES, Preparation, evaluation_images
from .engine.export import described, is_exported, open_network
from .errors import ConfigError
from .outcomes import output_names

_BATCH = 32  # images at once
THRESHOLD = 0.9  # of a run's early exits, where no other is asked for


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: the file.
        name: the class of the final output, which is what ships; of a file that answers early, of the output that did.
        probability: of that class, 0 to 1.
        top: the likeliest classes of the same output with their probabilities, likeliest first.
        exit: the first exit whose largest probability reaches the threshold ("exit 1"), else "final".
        exit_name, exit_probability: class and probability of that exit.
    """

    path: str
    name: str
    probability: float
    top: tuple[tuple[str, float], ...]
    exit: str
    exit_name: str
    exit_probability: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "class": self.name,
            "probability": self.probability,
            "top": [{"class": name, "probability": probability} for name, probability in self.top],
            "exit": self.exit,
            "exit_class": self.exit_name,
            "exit_probability": self.exit_probability,
        }


@dataclass(frozen=True)
class Predictions:
    """What was answered.

    Attributes:
        answers: in the order of the files.
        unreadable: path and reason of each file that could not be read.
        early: whether images were answered by the first exit that was certain, and no output after it was asked.
    """

    answers: list[Prediction] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    early: bool = False


@dataclass(frozen=True)
class _Network:
    """Attributes:
    exits: gives S_1..S_K of pixels (N, 3, H, W) uint8, the final output last.
    leaving: of a file that answers early, see engine.export.Opened.
    num_outputs: K where `leaving` is there.
    """

    exits: Callable[[Tensor], Sequence[Tensor]]
    classes: tuple[str, ...]
    preparation: Preparation
    leaving: Callable[[Tensor, float | None], tuple[Tensor, Tensor]] | None = None
    num_outputs: int = 1


def predict(
    run_or_file: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    threshold: float | None = None,
    top: int = 1,
) -> Predictions:
    """Classes of image files by a run's newest checkpoint, or by an exported network; on the processor.

    Args:
        run_or_file: a run folder; a file that metadistiller export wrote (.safetensors, .pt2, .onnx), which has the
            final output only; or what answers early: exported stages, or early_exit.safetensors of metadistiller
            calibrate.
        images: files, folders of images (with those below them) and patterns such as photos/*.jpg.
        threshold: probability from which an early exit is trusted, above 0 to 1; None takes 0.9, and of what
            answers early its own.
        top: how many classes `top` names, >= 1.
    Raises: ConfigError where an image is not there. CheckpointError. DataError where a run's data set is not there, or
        has become one that is shown in another way, or of other classes; RUN/model.safetensors answers without it.
    """
    require(threshold is None or 0 < threshold <= 1, "threshold", threshold, "take above 0 and at most 1")
    require(top >= 1, "top", top, "take 1 or more")
    paths = image_files([images] if isinstance(images, (str, Path)) else images)
    network = _network(Path(run_or_file))
    found = Predictions(early=network.leaving is not None)
    for read, pixels in _batches(paths, network.preparation, found.unreadable):
        found.answers.extend(_answers(network, read, pixels, threshold, top))
    return found


def image_files(given: Iterable[str | Path]) -> list[str]:
    """The files meant. Raises: ConfigError where one word means none."""
    found: list[str] = []
    for word in map(str, given):
        # What is there by this very name is meant, even where the name has brackets in it.
        matches = [word] if Path(word).exists() else sorted(glob(word, recursive=True))
        files = [file for match in matches for file in (_below(match) if Path(match).is_dir() else [match])]
        if not files:
            raise ConfigError(f"{word}: there is no image there; images are {', '.join(SUFFIXES)}")
        found += files
    return list(dict.fromkeys(found))


def _below(folder: str) -> list[str]:
    return [
        os.path.join(place, name)
        for place, inside, names in os.walk(folder)
        if inside.sort() is None
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]


def _network(place: Path) -> _Network:
    if is_exported(place):
        file = open_network(place)
        how = described(file.header, place)
        preparation = how.preparation
        if preparation is None:
            height, width = how.size
            preparation = Preparation(crop=how.size)
            print(
                f"{place} is from before files said how images are prepared: the middle is cut out and resized to "
                f"{width}x{height}, as the data set 'folder' does",
                file=sys.stderr,
            )
        return _Network(file.answers, how.classes, preparation, file.leaving, file.num_outputs)
    restored = restore(place, tested=False)
    data = restored.dataset
    method = restored.method.eval()
    return _Network(
        lambda pixels: method.exits(evaluation_images(pixels, data)), data.classes, data.picture_preparation
    )


def _batches(
    paths: Sequence[str], preparation: Preparation, unreadable: list[tuple[str, str]]
) -> Iterator[tuple[list[str], Tensor]]:
    def read(path: str) -> Tensor | str:
        try:
            return preparation.read(path)
        # Damaged bytes make the decoders raise nearly anything, so nothing narrower would do.
        except Exception as error:
            return str(error) or type(error).__name__

    rest = iter(paths)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode") as threads:
        while chunk := list(islice(rest, _BATCH)):
            shown: dict[str, Tensor] = {}
            for path, result in zip(chunk, threads.map(read, chunk), strict=True):
                if isinstance(result, str):
                    unreadable.append((path, result))
                else:
                    shown[path] = result
            if shown:
                yield list(shown), torch.stack(list(shown.values()))


@torch.no_grad()
def _answers(
    network: _Network, paths: Sequence[str], pixels: Tensor, threshold: float | None, top: int
) -> Iterator[Prediction]:
    if network.leaving is not None:
        yield from _early(network, paths, *network.leaving(pixels, threshold), top)
        return
    threshold = THRESHOLD if threshold is None else threshold
    outputs = [logits.softmax(1) for logits in network.exits(pixels)]
    ranked = outputs[-1].topk(min(top, len(network.classes)), dim=1)
    names = output_names(len(outputs))
    for row, path in enumerate(paths):
        best = [(float(output[row].max()), int(output[row].argmax())) for output in outputs]
        trusted = next((k for k, (largest, _) in enumerate(best[:-1]) if largest >= threshold), len(best) - 1)
        likeliest = zip(ranked.indices[row].tolist(), ranked.values[row].tolist(), strict=True)
        yield Prediction(
            path=path,
            name=network.classes[best[-1][1]],
            probability=best[-1][0],
            top=tuple((network.classes[label], value) for label, value in likeliest),
            exit=names[trusted],
            exit_name=network.classes[best[trusted][1]],
            exit_probability=best[trusted][0],
        )


def _early(network: _Network, paths: Sequence[str], shares: Tensor, outputs: Tensor, top: int) -> Iterator[Prediction]:
    ranked = shares.topk(min(top, len(network.classes)), dim=1)
    names = output_names(network.num_outputs)
    for path, labels, values, output in zip(
        paths, ranked.indices.tolist(), ranked.values.tolist(), outputs.tolist(), strict=True
    ):
        name, probability = network.classes[labels[0]], values[0]
        yield Prediction(
            path=path,
            name=name,
            probability=probability,
            top=tuple((network.classes[label], value) for label, value in zip(labels, values, strict=True)),
            exit=names[output],
            exit_name=name,
            exit_probability=probability,
        )
