"""Counts are whole numbers and the same however the images are cut into batches."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metadistiller import assemble, building
from metadistiller.config import Config
from metadistiller.data import ImageSet
from metadistiller.engine.evaluate import ensemble_scores, evaluate
from metadistiller.engine.machine import Machine
from metadistiller.engine.means import EpochMeans
from metadistiller.errors import TrainingError
from metadistiller.methods import Method

CPU = Machine(torch.device("cpu"), bfloat16=False, channels_last=False)


class Canned(nn.Module):
    """A method whose answers are a fixed function of the images."""

    def __init__(self, *exits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._exits = exits

    evaluating = Method.evaluating

    def exits(self, images: Tensor) -> list[Tensor]:
        assert not self.training
        return [exit_(images) for exit_ in self._exits]


def answers(seed: int, classes: int) -> Callable[[Tensor], Tensor]:
    weight = torch.randn(3, classes, generator=torch.Generator().manual_seed(seed))
    return lambda images: images.mean((2, 3)) @ weight * 10


def test_counts_equal_a_count_by_hand_and_do_not_depend_on_the_batch(tiny_config: Config) -> None:
    dataset = building.load_data(tiny_config.data)
    # Gray digits would make every channel mean equal; noise keeps the answers apart.
    drawn = torch.Generator().manual_seed(5)
    images = ImageSet(
        torch.randint(0, 256, (101, 3, 4, 4), dtype=torch.uint8, generator=drawn),
        torch.randint(0, 10, (101,), generator=drawn),
    )
    method = Canned(answers(1, 10), answers(2, 10), answers(3, 10)).train()
    found = [evaluate(method, dataset, images, machine=CPU, batch_size=size) for size in (1, 7, 101, 500)]
    assert method.training
    for other in found[1:]:
        assert (other.top1, other.top5, other.confusion) == (found[0].top1, found[0].top5, found[0].confusion)
        assert other.loss == pytest.approx(found[0].loss)
    mean, std = (torch.tensor(v)[:, None, None] for v in (dataset.mean, dataset.std))
    shown = (images.images.float() / 255 - mean) / std
    scores = [answers(seed, 10)(shown) for seed in (1, 2, 3)]
    scores.append(sum(scores) / 3)
    for logits, top1, top5 in zip(scores, found[0].top1, found[0].top5, strict=True):
        ranks = (logits > logits.gather(1, images.labels[:, None])).sum(1)
        assert top1 == int((ranks == 0).sum())
        assert top5 == int((ranks < 5).sum())
    final = scores[2].argmax(1)
    for truth, answer in zip(images.labels.tolist(), final.tolist(), strict=True):
        found[0].confusion[truth][answer] -= 1
    assert all(cell == 0 for row in found[0].confusion for cell in row)


def test_the_confusion_matrix_holds_every_image_and_its_diagonal_the_right_answers(tiny_config: Config) -> None:
    job = assemble.assemble(tiny_config, building.load_data(tiny_config.data))
    found = evaluate(job.method, job.dataset, job.dataset.test, machine=CPU, batch_size=300)
    confusion = torch.tensor(found.confusion)
    assert confusion.sum() == found.count == 797
    assert confusion.diagonal().sum() == found.top1[-2]
    assert torch.equal(confusion.sum(1), torch.bincount(job.dataset.test.labels))
    assert found.names == ["exit 1", "exit 2", "exit 3", "final", "ensemble"]


def test_ensemble_of_one_is_that_one_and_both_kinds_are_means() -> None:
    a, b = torch.randn(2, 5, 4).unbind()
    assert torch.equal(ensemble_scores([a], "logits"), a)
    torch.testing.assert_close(ensemble_scores([a, b], "logits"), (a + b) / 2)
    torch.testing.assert_close(ensemble_scores([a, b], "probabilities"), (a.softmax(1) + b.softmax(1)) / 2)


def test_a_confident_exit_weighs_more_in_logits_than_in_probabilities() -> None:
    sure, unsure = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    logits = ensemble_scores([sure, unsure, unsure], "logits")
    probabilities = ensemble_scores([sure, unsure, unsure], "probabilities")
    assert (logits.argmax().item(), probabilities.argmax().item()) == (0, 1)


def test_means_are_sums_over_counts_and_survive_being_saved() -> None:
    means = EpochMeans({}, torch.device("cpu"))
    for value in (1.0, 2.0, 4.5):
        means.add({"loss": torch.tensor(value)})
    means.add({"other": torch.tensor(7.0)})
    assert means.means("here") == {"loss": 2.5, "other": 7.0}
    again = EpochMeans(means.totals("here"), torch.device("cpu"))
    again.add({"loss": torch.tensor(0.5)})
    assert again.means("here") == {"loss": 2.0, "other": 7.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_mean_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    means = EpochMeans({}, torch.device("cpu"))
    means.add({"fine": torch.tensor(1.0), "exit_1_hard": torch.tensor(bad)})
    with pytest.raises(TrainingError, match=rf"exit_1_hard is {bad} in epoch 3, by step 7"):
        means.totals("epoch 3, by step 7")
