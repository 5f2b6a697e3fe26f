"""The file's answers beside the trained network's, on the same test images; what differs is not exported."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config import Config
from ...data import Dataset, LabelledImages, evaluation_images
from ...errors import CheckpointError, ExportError, MetaDistillerError
from ...methods import Method
from ._format import Format, Opened
from ._header import header_of

# Of the image's largest logit, or of 1 where that is smaller: sums of float32 in another order differ by shares of
# their terms, so what may differ grows with the logits.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        count: test images.
        gap: the largest difference of a logit, as a share of the image's largest logit, or of 1 where that is smaller.
        accuracy: percent of these images that are answered rightly, by the network and the file alike.
    """

    count: int
    gap: float
    accuracy: float


def chosen(images: LabelledImages, count: int) -> LabelledImages:
    """`count` images, or all where there are fewer, spread evenly: test sets often lie class after class."""
    count = min(count, len(images))
    return images.take(torch.arange(count) * len(images) // count)


@torch.no_grad()
def export_network(
    method: Method, path: Path, format: Format, *, config: Config, dataset: Dataset, count: int = 1000
) -> Proof:
    """Write the plain network, read it back, and ask both the same images.

    A format whose logits may differ in their last bits must give the same class for every image all the same, near
    ties included: another answer is another answer, however near the two best were.

    Args:
        method: as trained, on the processor.
        count: test images that are compared, at most; one of them once more by itself.
    Raises: ExportError where the file answers otherwise; what was at `path` before is still there then.
    """
    # The end of the name stays, by which other programs know the format.
    unproved = path.with_name(f".unproved.{path.name}")
    images = chosen(dataset.test, count)
    with method.evaluating():
        try:
            _write(method, unproved, format, config, dataset)
            proofs = [
                _compare(method, opened, path, images, format, config, dataset)
                for opened in _opened(format, unproved, path)
            ]
            _take_place(unproved, path)
        finally:
            _remove(unproved)
    return max(proofs, key=lambda proof: proof.gap)


def _take_place(unproved: Path, path: Path) -> None:
    if not unproved.is_dir():
        unproved.replace(path)
        return
    path.mkdir(exist_ok=True)
    # The table comes last, as it says which files it belongs to.
    for file in sorted(unproved.iterdir(), key=lambda file: file.suffix == ".json"):
        file.replace(path / file.name)


def _remove(unproved: Path) -> None:
    if unproved.is_dir():
        shutil.rmtree(unproved)
    else:
        unproved.unlink(missing_ok=True)


def _write(method: Method, path: Path, format: Format, config: Config, dataset: Dataset) -> None:
    try:
        format.write(method, path, header_of(config, dataset))
    except (OSError, MetaDistillerError):
        raise
    # A network of anybody's may hold what an exporter cannot write down, and each has its own ways to say so.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"{config.model.name} cannot be written as {format.name!r} ({type(error).__name__}: {reason}); nothing was "
            "exported. --format safetensors takes every network"
        ) from error


def _opened(format: Format, unproved: Path, path: Path) -> list[Opened]:
    """Read as anybody's file is, and as its users will."""
    try:
        return [way(unproved) for way in dict.fromkeys((format.open, format.shipped))]
    except CheckpointError as error:
        raise ExportError(f"{path}: what was written cannot be read back ({error}); nothing was exported") from error


def _compare(
    method: Method, opened: Opened, path: Path, images: LabelledImages, format: Format, config: Config, dataset: Dataset
) -> Proof:
    gap, right = 0.0, 0
    batches = [(images.pixels(torch.tensor([0])), images.labels[:1]), *images.batches(config.eval_batch_size)]
    for place, (pixels, labels) in enumerate(batches):
        exported = opened.answers(pixels)
        # A file has the final output, or all of them.
        trained = method.exits(evaluation_images(pixels, dataset))[-len(exported) :]
        for theirs, ours in zip(exported, trained, strict=True):
            gap = max(gap, _gap(ours, theirs, path, format))
        if place:
            right += int((exported[-1].argmax(1) == labels).sum())
    return Proof(len(images), gap, 100 * right / len(images))


def _gap(ours: Tensor, theirs: Tensor, path: Path, format: Format) -> float:
    """Of the trained network's logits and the file's. Raises: ExportError where it is too large."""
    scale = ours.abs().amax(1, keepdim=True).clamp(min=1)
    # Not a maximum of floats, which would lose a NaN.
    largest: float = ((ours - theirs).abs() / scale).amax().item()
    same = torch.equal(ours, theirs) if format.exact else largest <= TOLERANCE
    flips = int((ours.argmax(1) != theirs.argmax(1)).sum())
    if not same or flips:
        raise ExportError(
            f"{path}: the exported network's logits differ from the trained one's by up to "
            f"{(ours - theirs).abs().max().item():.3g}, and {flips} of {len(ours)} images get another class; "
            f"{'no bit' if format.exact else f'{TOLERANCE:g} of the largest logit, and no class,'} may differ; nothing "
            "was exported. Please report this with the run's config.yaml"
        )
    return largest
