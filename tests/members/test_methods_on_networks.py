"""Every method on every family of networks: it learns, stays finite, and gives the plain network back."""

import math
from typing import Any

import pytest

from metadistiller.config import Choice
from metadistiller.lookup import table

from .toys import PACKAGE, Steps, make, moved, network, setting, snapshot

# One small member of each family, and images of a side that its total stride allows.
NETWORKS = [
    (Choice(name="resnet10", options={"width": 4}), 16),
    (Choice(name="wrn10_1"), 16),
    (Choice(name="resnext29_2", options={"width": 4}), 16),
    (Choice(name="vgg19_bn", options={"width": 4}), 32),
    (Choice(name="mobilenet_v2", options={"width": 0.25}), 16),
    (Choice(name="shufflenet_v2_x0_5"), 16),
]
METHODS = sorted(table(PACKAGE))
CASES = [
    *(pytest.param(name, {}, model, side, id=f"{name}-{model.name}") for name in METHODS for model, side in NETWORKS),
    # What other options change has nothing to do with the family of networks.
    *(
        pytest.param(name, options, *NETWORKS[0], id=f"{name}-{next(iter(options.values()))}")
        for name, options in (
            ("fitnet", {"two_stage": False}),
            ("metadistiller", {"lookahead": "own"}),
            ("metadistiller", {"derivative": "finite_differences"}),
            ("metadistiller", {"targets": "labels"}),
            ("metadistiller", {"targets": "frozen"}),
            ("metadistiller", {"targets": "uniform"}),
        )
    ),
]
# Epoch -> its steps. In epoch 0 generators learn and hints are taken, in epoch 1 neither.
STEPS = {0: 6, 1: 14}


@pytest.mark.parametrize(("name", "options", "model", "side"), CASES)
def test_twenty_steps_on_one_batch_lower_the_loss(name: str, options: dict[str, Any], model: Choice, side: int) -> None:
    method = make(name, options, setting(network(model), size=(side, side)))
    before = snapshot(method.deployable())
    steps = Steps(method, size=(side, side))
    # A loss of hints alone and one of labels cannot be compared.
    losses: dict[bool, list[float]] = {}
    for epoch, count in STEPS.items():
        for _ in range(count):
            parts = steps.step(epoch)
            losses.setdefault("final_hard" in parts, []).append(parts["loss"])
    for kind in losses.values():
        assert all(math.isfinite(loss) for loss in kind)
        assert kind[-1] < kind[0]
    shipped, plain = method.deployable().state_dict(), network(model).state_dict()
    assert {key: value.shape for key, value in shipped.items()} == {key: value.shape for key, value in plain.items()}
    assert moved(method.deployable(), before) == set(before)
