"""What soft_targets.json and mistakes.json say of single test images: against a computation by hand."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from metadistiller.data import Dataset, ImageSet, evaluation_images
from metadistiller.engine.examples import soft_target_examples, worst_mistakes
from metadistiller.errors import ConfigError
from metadistiller.lookup import table
from metadistiller.outcomes import Outcomes

from . import toys
from .asked import COUNT, CPU, Sure, by_hand, dataset, method_of

METHODS = list(table(toys.PACKAGE))
ENTROPY = {"count": COUNT, "targets": [], "exits": [], "final": 0.5}


@pytest.mark.parametrize("name", METHODS)
def test_examples_are_what_the_method_answers(name: str) -> None:
    method, data = method_of(name), dataset()
    found = soft_target_examples(method.train(), data, CPU, entropy=ENTROPY, batch_size=4, index=[3, 22, 3, 0, 7])
    assert method.training
    expected = by_hand(method, evaluation_images(data.test.images, data))
    num_exits = len(expected["exits"])
    assert len(expected["targets"]) in (0, num_exits)
    assert found["classes"] == list("abcde")
    assert found["entropy"] == ENTROPY
    assert [image["index"] for image in found["images"]] == [3, 22, 3, 0, 7]
    for image in found["images"]:
        place = image["index"]
        assert image["label"] == data.test.labels[place]
        shown = Image.open(io.BytesIO(base64.b64decode(image["png"])))
        assert shown.tobytes() == bytes(data.test.images[place].permute(1, 2, 0).flatten().tolist())
        for kind in ("targets", "exits", "final"):
            stacked = [shares[place] for shares in expected[kind]] if kind != "final" else [expected[kind][place]]
            given = image[kind] if kind != "final" else [image[kind]]
            assert len(given) == len(stacked)
            for one, other in zip(given, stacked, strict=True):
                torch.testing.assert_close(torch.tensor(one), other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "places"),
    [
        ([4, 4, 3, 2, 2, 1, 0] + [0] * 16, [6, 3, 0]),  # the first of 0, 2 and 4
        ([3, 1, 1] + [3] * 20, [1, 0]),
        ([2] * 23, [0]),
    ],
)
def test_without_a_choice_the_first_image_of_classes_spread_over_the_labels(
    labels: list[int], places: list[int]
) -> None:
    found = soft_target_examples(Sure(), dataset(labels), CPU, entropy=ENTROPY, batch_size=6)
    assert [image["index"] for image in found["images"]] == places
    assert [image["label"] for image in found["images"]] == sorted({labels[place] for place in places})


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ([0, 23], "number of a test image is 23; take 0 to 22"),
        ([-1], "number of a test image is -1; take 0 to 22"),
        ([], "name one or more test images"),
    ],
)
def test_an_image_that_is_not_there_is_refused(index: list[int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        soft_target_examples(Sure(), dataset(), CPU, entropy=ENTROPY, batch_size=6, index=index)


def outcomes_of(logits: list[list[list[float]]], labels: list[int]) -> Outcomes:
    """By output, image and class; of the images 5, 6, ... of the test set."""
    return Outcomes(
        logits=np.array(logits, dtype=np.float32),
        labels=np.array(labels),
        index=np.arange(5, 5 + len(labels)),
        total=COUNT,
        trunk_macs=(10, 20),
        exit_macs=(1,),
    )


def test_the_worst_mistakes_come_first_with_what_every_output_says() -> None:
    two, data = float(np.log(2)), dataset()
    final = [[3 * two, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, two, 0, 0], [0, 0, 0, 5 * two, 0]]
    early = [[0, 0, 0, 0, two], [0, 9, 0, 0, 0], [0, 0, two, 0, 0], [two, 0, 0, 0, 0]]
    found = worst_mistakes(outcomes_of([early, final], [1, 1, 0, 2]), data)
    assert (found.classes, found.count, found.wrong) == (tuple("abcde"), 4, 3)
    images = found.images
    assert [image.index for image in images] == [8, 5, 7]
    assert [(image.label, image.final.answer) for image in images] == [(2, 3), (1, 0), (0, 2)]
    assert [image.final.confidence for image in images] == pytest.approx([32 / 36, 8 / 12, 2 / 6])
    assert [image.label_share for image in images] == pytest.approx([1 / 36, 1 / 12, 1 / 6])
    assert [(said.answer, said.confidence) for said in images[0].exits] == [(0, pytest.approx(1 / 3))]
    shown = Image.open(io.BytesIO(base64.b64decode(images[1].png)))
    assert shown.tobytes() == bytes(data.test.pixels(torch.tensor([5]))[0].permute(1, 2, 0).flatten().tolist())


def test_without_a_mistake_there_is_none_and_of_many_the_worst_two_dozen() -> None:
    sure = [[9.0, 0, 0, 0, 0]] * 18
    assert worst_mistakes(outcomes_of([sure, sure], [0] * 18), dataset()).images == ()
    many = Outcomes(
        logits=np.stack([np.eye(5, dtype=np.float32)[[0] * 40] * np.arange(1, 41)[:, None].astype(np.float32)] * 2),
        labels=np.full(40, 3),
        index=np.sort(np.arange(40) % COUNT),
        total=COUNT,
        trunk_macs=(10, 20),
        exit_macs=(1,),
    )
    found = worst_mistakes(many, dataset())
    assert (found.wrong, len(found.images)) == (40, 24)
    certain = [image.final.confidence for image in found.images]
    assert certain == sorted(certain, reverse=True)


def test_a_large_picture_is_shown_small_and_its_shape_stays() -> None:
    data = dataset()
    large = ImageSet(torch.zeros(COUNT, 3, 200, 400, dtype=torch.uint8), data.test.labels)
    wide = Dataset(**{**vars(data), "train": large, "test": large})
    logits = [[[9.0, 0, 0, 0, 0]]] * 2
    (image,) = worst_mistakes(outcomes_of(logits, [1]), wide).images
    assert Image.open(io.BytesIO(base64.b64decode(image.png))).size == (96, 48)
