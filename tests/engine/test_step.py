"""One step of training: who moves when, and what those who wait leave to the others."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metadistiller import assemble, building
from metadistiller.config import Choice, Config, Optim
from metadistiller.data import Disjoint, Train
from metadistiller.engine.step import Job, Stepper
from metadistiller.meta import meta_loss
from metadistiller.methods import Losses, Method, Objective, Player
from metadistiller.nn import Backbone, build_network


class Two(Method):
    """Two numbers that learn one after the other; each objective notes what it finds of both."""

    def __init__(self, waits: Mapping[str, bool], every_steps: int = 1) -> None:
        super().__init__()
        self.student, self.other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.seen: list[dict[str, tuple[float, float | None]]] = []
        self._waits = waits
        self._every_steps = every_steps
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(1.0)

    def players(self) -> dict[str, Player]:
        return {name: Player(getattr(self, name), "sgd") for name in ("student", "other")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        every = {"student": 1, "other": self._every_steps}
        return tuple(
            Objective(of=name, loss=self._loss(name), waits=self._waits[name], every_steps=every[name])
            for name in self.players()
        )

    def _loss(self, name: str) -> Callable[[Any, Mapping[str, float]], Losses]:
        def loss(batch: Any, rates: Mapping[str, float]) -> Losses:
            weights = {key: player.module.weight for key, player in self.players().items()}
            # Clipping divides by the norm and a millionth.
            self.seen.append(
                {key: (round(w.item(), 4), None if w.grad is None else w.grad.item()) for key, w in weights.items()}
            )
            return Losses(3 * weights[name].sum())

        return loss

    def exits(self, images: Tensor) -> list[Tensor]:
        return []

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        return []

    def multi_exit(self) -> None:
        return None

    def deployable(self) -> Backbone:
        return build_network(Choice(name="resnet10", options={"width": 4}), 10)


PLAIN = Optim(lr=0.125, momentum=0.0, weight_decay=0.0, clip_norm=1.0, schedule="constant")


def stepper(config: Config, method: Method | None = None) -> Stepper:
    job = assemble.assemble(config, building.load_data(config.data))
    made = Stepper(job if method is None else replace(job, method=method))
    made.begin_epoch(0)
    return made


# Before clipping the gradient is 3 and after it 1, so a move is of 1/8.
BEFORE, AFTER = 1.0, 0.875


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_who_waits_moves_after_all_and_leaves_its_gradient_to_those_between(
    student: bool, other: bool, tiny_config: Config
) -> None:
    method = Two({"student": student, "other": other})
    steps = stepper(replace(tiny_config, optim=PLAIN), method)
    steps.step(0)
    first, second = method.seen
    assert first == {"student": (BEFORE, None), "other": (BEFORE, None)}
    assert second == {"student": (BEFORE, 3.0) if student else (AFTER, None), "other": (BEFORE, None)}
    assert [p.item() for p in method.parameters()] == pytest.approx([AFTER, AFTER])
    assert all(p.grad is None for p in method.parameters())
    norms = steps.means.means("here")
    assert norms == {"student_gradient_norm": 3, "other_gradient_norm": 3}


def test_who_waits_moves_in_every_step_also_where_nobody_comes_after(tiny_config: Config) -> None:
    method = Two({"student": True, "other": False}, every_steps=2)
    steps = stepper(replace(tiny_config, optim=PLAIN), method)
    for step in range(3):
        steps.step(step)
    assert [p.item() for p in method.parameters()] == pytest.approx([BEFORE - 3 / 8, BEFORE - 2 / 8])


# -- the shared look-ahead ---------------------------------------------------------------------------------------------


def generator_moments(steps: Stepper) -> Tensor:
    """Adam's averages of the generator's gradient, of all parameters together."""
    state = steps.optimizers["generator"].state()
    return torch.cat([value.flatten().clone() for key, value in state.items() if key.endswith("exp_avg")])


def job_of(steps: Stepper) -> Job:
    return steps._job


def expected(steps: Stepper, step: int, twin: Any, inner_lr: float) -> Tensor:
    """The meta-gradient of a step by a look-ahead of its own on the student's batch."""
    train, heldout = (job_of(steps).batches.batch(stream, epoch=0, step=step) for stream in (Train(), Disjoint()))
    settings = {"inner_lr": inner_lr, "alpha": 0.5, "temperature": 1.0}
    found = meta_loss(twin.boosting.student, twin.generator, train, heldout, **settings)  # type: ignore[arg-type]
    gradients = torch.autograd.grad(found.surrogate, list(twin.generator.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def off(ours: Tensor, theirs: Tensor) -> float:
    """Between directions: clipping has scaled one of them."""
    return (ours / ours.norm() - theirs / theirs.norm()).norm().item()


def test_momentum_decay_and_clipping_do_not_enter_the_look_ahead(tiny_config: Config) -> None:
    optim = Optim(lr=0.05, momentum=0.95, nesterov=True, weight_decay=0.5, clip_norm=1e-2, schedule="constant")
    steps = stepper(replace(tiny_config, optim=optim))
    moments: list[Tensor] = []
    for step in range(2):
        twin = copy.deepcopy(job_of(steps).method).train()
        steps.step(step)
        moments.append(generator_moments(steps))
        # m' = 0.9 m + 0.1 g
        gradient = (moments[-1] - (0.9 * moments[-2] if step else 0)) / 0.1
        assert off(gradient, expected(steps, step, twin, 0.05)) < 1e-3
        # The student after its step, momentum and all, would have taught something else.
        twin.boosting.load_state_dict(job_of(steps).method.boosting.state_dict())
        assert off(gradient, expected(steps, step, twin, 0.05)) > 1e-2
        # So would a look-ahead of the clipped gradient, which is hardly a step.
        assert off(gradient, expected(steps, step, twin, 0.0005)) > 1e-2


def test_the_student_s_run_is_the_same_until_it_sees_another_generator(tiny_config: Config) -> None:
    """After one step of each kind the student is bitwise the same."""
    states = []
    for lookahead in ("shared", "own"):
        method = Choice(name="metadistiller", options={"lookahead": lookahead})
        steps = stepper(replace(tiny_config, method=method))
        steps.step(0)
        states.append(job_of(steps).method.boosting.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
