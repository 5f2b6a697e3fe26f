"""Image sets: the two kinds mean the same, and threads that decode change no bit and are gone in the end."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from metadistiller.data import (
    Augment,
    Batches,
    Dataset,
    Halves,
    ImageSet,
    LabelledImages,
    Train,
    TrainingView,
)
from metadistiller.data import _files as files
from metadistiller.data._augment import Normalise
from metadistiller.data._base import few_shot
from metadistiller.data._files import ImageFiles
from metadistiller.data._order import train_batch
from metadistiller.data._pictures import read_picture
from metadistiller.errors import DataError

CPU = torch.device("cpu")
SIDE, COUNT = 12, 20
KINDS = ["resident", "files"]


def noise(count: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(9)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=draw)


def saved(images: Tensor, place: Path) -> list[str]:
    """Lossless files of the images."""
    place.mkdir(exist_ok=True)
    paths = [str(place / f"{number:02}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return paths


def image_set(kind: str, place: Path, *, workers: int | None = 2) -> LabelledImages:
    """The same images and labels, kept in one way or the other."""
    images, labels = noise(COUNT, SIDE, SIDE), torch.arange(COUNT) % 3
    if kind == "resident":
        return ImageSet(images, labels)
    return ImageFiles(saved(images, place), labels, SIDE, SIDE, 10_000, workers)


def dataset(train: LabelledImages, test: LabelledImages | None = None, augment: Augment | None = None) -> Dataset:
    return Dataset(
        name="noise",
        train=train,
        test=train if test is None else test,
        classes=("a", "b", "c"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        augment=augment or Augment(pad=0, flip=True, min_area=0.1),
        source="the test",
    )


def view(kind: str, place: Path, *, seed: int = 0, workers: int | None = 2) -> TrainingView:
    return dataset(image_set(kind, place, workers=workers)).training_view(seed=seed, device=CPU)


# What holds for every kind


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_batches_and_parts_are_those_of_the_images(kind: str, tmp_path: Path) -> None:
    images, truth = image_set(kind, tmp_path), noise(COUNT, SIDE, SIDE)
    assert (len(images), images.size) == (COUNT, (SIDE, SIDE))
    for index in ([3], [5, 0, 5], list(range(COUNT - 1, -1, -1))):
        pixels = images.pixels(torch.tensor(index))
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, truth[index])
        part = images.take(torch.tensor(index))
        assert torch.equal(part.labels, images.labels[index])
        assert torch.equal(part.pixels(torch.arange(len(index))), truth[index])
    for size in (1, 7, COUNT, 100):
        parts = list(images.batches(size))
        assert [len(labels) for _, labels in parts[:-1]] == [size] * (len(parts) - 1)
        assert torch.equal(torch.cat([pixels for pixels, _ in parts]), truth)
        assert torch.equal(torch.cat([labels for _, labels in parts]), images.labels)


def test_few_shot_draws_the_same_images_of_every_kind(tmp_path: Path) -> None:
    chosen = [few_shot(image_set(kind, tmp_path), 2, seed=5, classes="abc") for kind in KINDS]
    assert torch.bincount(chosen[0].labels).tolist() == [2, 2, 2]
    everything = torch.arange(6)
    assert torch.equal(chosen[0].pixels(everything), chosen[1].pixels(everything))


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_refuses_labels_that_cannot_be_meant(kind: str, tmp_path: Path) -> None:
    images = image_set(kind, tmp_path)
    labels = images.labels.clone()
    for broken, message in (
        (labels + 1, "labels run from 1 to 3, but there are 3 classes"),
        (labels.clamp_max(1), "no training image of class 'c'"),
        (labels[:-1], "train images are 20, but there are 19 labels"),
    ):
        with pytest.raises(DataError, match=message):
            dataset(replace(images, labels=broken))  # type: ignore[type-var]
    with pytest.raises(DataError, match="the test set has no images"):
        dataset(images, images.take(torch.arange(0)))


def test_a_data_set_refuses_images_that_are_none_or_of_two_sizes(tmp_path: Path) -> None:
    images = noise(COUNT, SIDE, SIDE)
    with pytest.raises(DataError, match=r"train images are torch\.float32 \(20, 3, 12, 12\); they must be uint8"):
        dataset(ImageSet(images.float(), torch.arange(COUNT) % 3))
    with pytest.raises(DataError, match=r"training images are \(12, 12\) \(height, width\), test images \(12, 9\)"):
        dataset(image_set("files", tmp_path), ImageSet(images[..., :9], torch.arange(COUNT) % 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_image_depends_on_seed_stream_epoch_and_image_alone(kind: str, tmp_path: Path) -> None:
    training = view(kind, tmp_path)
    everything = torch.arange(COUNT)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, labels = training.batch(everything, epoch=3, stream="train")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(labels, training.labels)
    assert (training.size, len(training)) == ((SIDE, SIDE), COUNT)
    others = [training.batch(everything, epoch=epoch, stream=name)[0] for epoch, name in ((4, "train"), (3, "X_test"))]
    others.append(view(kind, tmp_path, seed=1).batch(everything, epoch=3, stream="train")[0])
    for other in others:
        assert (other == first).flatten(1).all(1).float().mean() < 0.3
    for index in ([7], [19, 7, 0], [3, 3]):
        again, labels = training.batch(torch.tensor(index), epoch=3, stream="train")
        torch.testing.assert_close(again, first[index], atol=1e-6, rtol=0)
        assert torch.equal(labels, training.labels[index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_training_batch_is_float32_in_the_layout_asked_for(
    kind: str, layout: torch.memory_format, tmp_path: Path
) -> None:
    training = dataset(image_set(kind, tmp_path)).training_view(seed=0, device=CPU, memory_format=layout)
    images, labels = training.batch(torch.tensor([1, 2]), epoch=0, stream="train")
    assert (images.dtype, labels.dtype, images.shape) == (torch.float32, torch.int64, (2, 3, SIDE, SIDE))
    assert images.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("kind", KINDS)
def test_hints_workers_and_order_change_no_bit(kind: str, tmp_path: Path) -> None:
    places = [(epoch, step) for epoch in range(2) for step in range(5)]
    orders = [places, places[::-1], places[7:] + places[3:5] + places, places[::3] + places]
    found = []
    for workers, order in zip((1, 3, 8, None), orders, strict=True):
        batches = Batches(view(kind, tmp_path, workers=workers), batch_size=4)
        asked = {}
        for epoch, step in order:
            pair = batches.batch(Halves(), epoch=epoch, step=step)
            asked[epoch, step] = torch.cat([batches.batch(Train(), epoch=epoch, step=step)[0], pair[0][0], pair[1][0]])
        found.append(torch.stack([asked[place] for place in places]))
    unhinted = Batches(view(kind, tmp_path, workers=2), batch_size=4)
    unhinted._images.prepare = lambda index, *, epoch, stream: None  # type: ignore[method-assign]
    alone = torch.stack([unhinted.batch(Train(), epoch=epoch, step=step)[0] for epoch, step in places])
    assert all(torch.equal(other, found[0]) for other in found[1:])
    assert torch.equal(found[0][:, :4], alone)


@pytest.mark.parametrize("width", [1, 5, 16, 31, 224])
def test_a_pixel_is_normalised_alone_wherever_it_stands(width: int) -> None:
    everything = torch.arange(256, dtype=torch.uint8).repeat(3)
    data = dataset(ImageSet(noise(COUNT, 2, width), torch.arange(COUNT) % 3))
    lines = everything[torch.randperm(768)[: 768 // (3 * width) * 3 * width]].view(1, -1, width, 3)
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    one_by_one = [torch.addcmul(-mean / std, pixel.float(), 1 / (255 * std)) for pixel in lines.view(-1, 3)]
    assert torch.equal(Normalise(data, CPU)(lines).permute(0, 2, 3, 1).reshape(-1, 3), torch.stack(one_by_one))


# Files that are damaged


def test_a_damaged_file_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    images = image_set("files", tmp_path)
    bad = int(train_batch(COUNT, 5, seed=0, epoch=0, step=2)[1])
    place = tmp_path / f"{bad:02}.png"
    place.write_bytes(place.read_bytes()[:150])
    batches = Batches(dataset(images).training_view(seed=0, device=CPU), batch_size=5)
    message = rf"{place} cannot be read \(.*\); put a sound copy in its place and resume the run, or remove it"
    for step in (0, 1):
        # Hinted at by now, it hurts nobody.
        assert batches.batch(Train(), epoch=0, step=step)[0].isfinite().all()  # type: ignore[union-attr]
    for ask in (
        lambda: batches.batch(Train(), epoch=0, step=2),
        lambda: batches.batch(Train(), epoch=0, step=2),
        lambda: images.pixels(torch.tensor([bad])),
        lambda: list(images.batches(3)),
    ):
        with pytest.raises(DataError, match=message):
            ask()
    assert batches.batch(Train(), epoch=0, step=3)[0].isfinite().all()  # type: ignore[union-attr]


# Threads


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files in the order in which they are opened from now on."""
    names: list[str] = []

    def read(path: str, *, max_pixels: int) -> Image.Image:
        names.append(Path(path).name)
        return read_picture(path, max_pixels=max_pixels)

    monkeypatch.setattr(files, "read_picture", read)
    return names


def test_nothing_is_decoded_twice_or_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = decoded(monkeypatch)
    batches = Batches(view("files", tmp_path), batch_size=3)
    for step in range(batches.steps_per_epoch):
        batches.batch(Train(), epoch=0, step=step)
        # Two methods ask for a batch twice.
        batches.batch(Train(), epoch=0, step=step)
    assert sorted(names) == [f"{number:02}.png" for number in range(COUNT)]


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    training = view("files", tmp_path)
    for start in range(15):
        training.prepare(torch.arange(start, start + 5), epoch=0, stream="train")
    assert isinstance(training, files.TrainingFiles)
    assert len(training._coming["train"]) == 3


def test_evaluation_decodes_two_batches_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = decoded(monkeypatch)
    batches = image_set("files", tmp_path).batches(3)
    next(batches)
    next(batches)
    end = time.monotonic() + 30
    while len(names) < 12 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(names) == 12


def test_evaluation_that_is_left_decodes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    go_on = threading.Event()

    def read(path: str, *, max_pixels: int) -> Image.Image:
        begun.append(path)
        if len(begun) > 6:
            go_on.wait(30)
        return read_picture(path, max_pixels=max_pixels)

    monkeypatch.setattr(files, "read_picture", read)
    batches = image_set("files", tmp_path, workers=2).batches(3)
    next(batches)
    next(batches)
    # Two more batches are on their way: one image for each thread, four that wait.
    del batches
    go_on.set()
    assert gone()
    assert 6 <= len(begun) <= 8


def decoding_threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


def gone() -> bool:
    """Whether all decoding threads have ended, soon."""
    end = time.monotonic() + 30
    while decoding_threads() and time.monotonic() < end:
        time.sleep(0.01)
    return decoding_threads() == 0


def test_threads_end_with_what_they_work_for(tmp_path: Path) -> None:
    assert gone(), "of another test"
    training, damaged = view("files", tmp_path), view("files", tmp_path)
    training.prepare(torch.arange(COUNT), epoch=0, stream="train")
    unfinished = image_set("files", tmp_path).batches(2)
    next(unfinished)
    (tmp_path / "04.png").write_bytes(b"")
    assert decoding_threads() > 0
    # The garbage collector comes when it likes; nobody should have to wait for it.
    gc.disable()
    try:
        damaged.batch(torch.arange(COUNT), epoch=0, stream="train")
    except DataError:
        failed = True
    del training, damaged, unfinished
    found = gone()
    gc.enable()
    assert failed
    assert found


def test_a_process_that_fails_does_not_wait_for_hints() -> None:
    """A thousand images of a second each are on their way when it ends."""
    program = """
import sys, time, torch
from PIL import Image
from metadistiller.data import Augment, Dataset, _files
def slow(path, *, max_pixels):
    time.sleep(1)
    return Image.new("RGB", (8, 8))
_files.read_picture = slow
images = _files.ImageFiles([""] * 1000, torch.arange(1000) % 2, 8, 8, 100, 2)
def run():
    data = Dataset(name="", train=images, test=images, classes=("a", "b"), mean=(0, 0, 0), std=(1, 1, 1),
                   augment=Augment(pad=0), source="")
    view = data.training_view(seed=0, device=torch.device("cpu"))
    view.prepare(torch.arange(1000), epoch=0, stream="train")
    raise ValueError("a defect")
try:
    run()
except ValueError:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == 7
