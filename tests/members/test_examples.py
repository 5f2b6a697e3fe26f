"""What soft_targets.json says of the test set, for every method: against a computation by hand."""

import base64
import io
import math
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from metadistiller.data import Augment, Dataset, ImageSet, evaluation_images
from metadistiller.engine.examples import soft_target_examples
from metadistiller.engine.machine import Machine
from metadistiller.errors import ConfigError, TrainingError
from metadistiller.lookup import table
from metadistiller.methods import Method

from . import toys

CPU = Machine(torch.device("cpu"), bfloat16=False, channels_last=False)
COUNT = 23
METHODS = list(table(toys.PACKAGE))


def dataset(labels: list[int] | None = None) -> Dataset:
    """23 test images of five classes; no two look alike."""
    drawn = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (COUNT, 3, *toys.SIZE), dtype=torch.uint8, generator=drawn)
    test = ImageSet(pixels, torch.tensor(labels or [(3 * place + 2) % toys.CLASSES for place in range(COUNT)]))
    train = ImageSet(pixels[:5], torch.arange(5))
    return Dataset(
        name="toy",
        train=train,
        test=test,
        classes=tuple("abcde"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        augment=Augment(),
        source="drawn",
    )


def method_of(name: str) -> Method:
    """With running statistics that are not the initial ones, so that evaluation mode shows."""
    method = toys.make(name)
    with torch.no_grad():
        for step in range(3):
            method.train().exits(toys.batch(step)[0])
    return method


def by_hand(method: Method, images: Tensor) -> dict[str, Any]:
    """Targets, exits and final output of all test images at once, float32, evaluation mode."""
    method.eval()
    with torch.no_grad():
        outputs = [torch.softmax(logits, 1) for logits in method.exits(images)]
        return {"targets": method.soft_targets(images), "exits": outputs[:-1], "final": outputs[-1]}


def entropy(shares: Tensor) -> float:
    """Mean over the images, one by one and with Python's own numbers."""
    rows = [[share for share in row if share > 0] for row in shares.tolist()]
    return math.fsum(-share * math.log(share) for row in rows for share in row) / len(rows)


@pytest.mark.parametrize("name", METHODS)
def test_examples_are_what_the_method_answers(name: str) -> None:
    method, data = method_of(name), dataset()
    found = soft_target_examples(method.train(), data, CPU, batch_size=4, index=[3, 22, 3, 0, 7])
    assert method.training
    expected = by_hand(method, evaluation_images(data.test.images, data))
    num_exits = len(expected["exits"])
    assert len(expected["targets"]) in (0, num_exits)
    assert found["classes"] == list("abcde")
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


@pytest.mark.parametrize("name", METHODS)
def test_entropies_are_means_over_the_test_set_however_it_is_cut(name: str) -> None:
    method, data = method_of(name), dataset()
    expected = by_hand(method, evaluation_images(data.test.images, data))
    for batch_size in (1, 5, 100):
        found = soft_target_examples(method, data, CPU, batch_size=batch_size)["entropy"]
        assert set(found) == {"count", "targets", "exits", "final"}
        assert found["count"] == COUNT
        for kind in ("targets", "exits"):
            assert found[kind] == pytest.approx([entropy(shares) for shares in expected[kind]], rel=1e-5)
        assert found["final"] == pytest.approx(entropy(expected["final"]), rel=1e-5)
        assert 0 < found["final"] < math.log(toys.CLASSES)


class Sure(torch.nn.Module):
    """A method whose answers have zeros in them, or worse."""

    evaluating = Method.evaluating

    def __init__(self, worst: float = 0.0) -> None:
        super().__init__()
        self.worst = worst

    def exits(self, images: Tensor) -> list[Tensor]:
        one_hot = torch.zeros(len(images), toys.CLASSES)
        one_hot[:, 0] = 1000.0
        return [torch.zeros(len(images), toys.CLASSES), one_hot]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        shares = torch.zeros(len(images), toys.CLASSES)
        shares[:, :2] = 0.5
        shares[0, 0] += self.worst
        return [shares]


def test_entropies_go_from_zero_to_the_log_of_the_classes() -> None:
    found = soft_target_examples(Sure(), dataset(), CPU, batch_size=6)["entropy"]  # type: ignore[arg-type]
    assert found["final"] == 0
    assert found["exits"] == pytest.approx([math.log(toys.CLASSES)], rel=1e-6)
    assert found["targets"] == pytest.approx([math.log(2)], rel=1e-12)


def test_an_answer_that_is_not_finite_is_told() -> None:
    with pytest.raises(TrainingError, match=r"not finite.*--optim\.lr"):
        soft_target_examples(Sure(math.nan), dataset(), CPU, batch_size=6)  # type: ignore[arg-type]


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
    found = soft_target_examples(Sure(), dataset(labels), CPU, batch_size=6)  # type: ignore[arg-type]
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
        soft_target_examples(Sure(), dataset(), CPU, batch_size=6, index=index)  # type: ignore[arg-type]
