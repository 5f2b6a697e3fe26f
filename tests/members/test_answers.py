"""What is kept of a look at the test set, for every method: against a computation by hand."""

import math

import numpy as np
import pytest
import torch

from metadistiller import outcomes
from metadistiller.data import evaluation_images
from metadistiller.engine.answers import answers
from metadistiller.errors import TrainingError
from metadistiller.lookup import table
from metadistiller.nn import exit_costs

from . import toys
from .asked import COUNT, CPU, Sure, by_hand, dataset, entropy, method_of

METHODS = list(table(toys.PACKAGE))


@pytest.mark.parametrize("name", METHODS)
def test_entropies_are_means_over_the_test_set_however_it_is_cut(name: str) -> None:
    method, data = method_of(name), dataset()
    expected = by_hand(method, evaluation_images(data.test.images, data))
    for batch_size in (1, 5, 100):
        found = answers(method, data, CPU, batch_size=batch_size).entropy
        assert set(found) == {"count", "targets", "exits", "final"}
        assert found["count"] == COUNT
        for kind in ("targets", "exits"):
            assert found[kind] == pytest.approx([entropy(shares) for shares in expected[kind]], rel=1e-5)
        assert found["final"] == pytest.approx(entropy(expected["final"]), rel=1e-5)
        assert 0 < found["final"] < math.log(toys.CLASSES)


@pytest.mark.parametrize("name", METHODS)
def test_outcomes_are_the_logits_of_all_outputs_and_leave_the_mode_alone(name: str) -> None:
    method, data = method_of(name), dataset()
    method.eval()
    with torch.no_grad():
        expected = torch.stack(method.exits(evaluation_images(data.test.images, data)))
    found = answers(method.train(), data, CPU, batch_size=4).outcomes
    assert method.training
    torch.testing.assert_close(torch.from_numpy(found.logits), expected, rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == data.test.labels.tolist()
    assert (found.index.tolist(), found.total) == (list(range(COUNT)), COUNT)
    student = method.multi_exit()
    assert len(found.trunk_macs) == len(expected) == len(found.exit_macs) + 1
    if student is not None:
        assert (found.trunk_macs, found.exit_macs) == tuple(vars(exit_costs(student, toys.SIZE)).values())


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_of_too_many_images_some_are_kept_evenly(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    method, data = method_of("dsn"), dataset()
    whole = answers(method, data, CPU, batch_size=batch_size)
    monkeypatch.setattr(outcomes, "LARGEST", 7 * 4 * whole.outcomes.num_outputs * toys.CLASSES)
    part = answers(method, data, CPU, batch_size=batch_size)
    assert part.outcomes.index.tolist() == [0, 3, 6, 9, 13, 16, 19]
    assert np.array_equal(part.outcomes.logits, whole.outcomes.logits[:, part.outcomes.index])
    assert np.array_equal(part.outcomes.labels, whole.outcomes.labels[part.outcomes.index])
    assert part.outcomes.total == COUNT
    # What is said of all images is said of all.
    assert part.entropy == whole.entropy


def test_entropies_go_from_zero_to_the_log_of_the_classes() -> None:
    found = answers(Sure(), dataset(), CPU, batch_size=6).entropy
    assert found["final"] == 0
    assert found["exits"] == pytest.approx([math.log(toys.CLASSES)] * 3, rel=1e-6)
    assert found["targets"] == pytest.approx([math.log(2)] * 3, rel=1e-12)


def test_an_answer_that_is_not_finite_is_told() -> None:
    with pytest.raises(TrainingError, match=r"not finite.*--optim\.lr"):
        answers(Sure(math.nan), dataset(), CPU, batch_size=6)
