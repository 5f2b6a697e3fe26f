"""Boost a network as a training task of timm: python examples/timm_task.py --steps 20"""

from collections.abc import Iterable

import digits
import torch
from timm.optim import create_optimizer_v2
from timm.task import TrainingTask
from torch import Tensor, nn

import metadistiller
from metadistiller import Boosted


class BoostTask(TrainingTask):
    """timm's loop calls it with a batch and goes on with result["loss"] as with any task."""

    def __init__(self, boosted: Boosted) -> None:
        super().__init__(verbose=False)
        self.trainable_module = boosted

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        loss = self.trainable_module.loss(input, target)
        return {**self.trainable_module.parts, "loss": loss}

    def generator_loss(self, pair: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], lr: float) -> Tensor:
        """For the generator's own optimizer, after the student's step."""
        return self.trainable_module.meta_loss(*pair, inner_lr=lr)


def train(boosted: Boosted, steps: Iterable[digits.Step], *, lr: float = 0.05) -> list[float]:
    """The student's loss in each step."""
    task = BoostTask(boosted).train()
    trained = nn.ParameterList(boosted.student_parameters())
    # timm takes no weight decay of biases and norms unless told so.
    student = create_optimizer_v2(
        trained, opt="momentum", lr=lr, momentum=0.9, weight_decay=5e-4, filter_bias_and_bn=False, fused=True
    )
    generator = torch.optim.Adam(boosted.generator_parameters(), lr=0.001, fused=True)
    losses = []
    for (images, labels), pair in steps:
        result = task(images, labels)
        result["loss"].backward()
        student.step()
        student.zero_grad()
        task.generator_loss(pair, lr).backward()
        generator.step()
        generator.zero_grad()
        losses.append(result["loss"].item())
    return losses


def main() -> None:
    model = digits.network()
    boosted = metadistiller.boost(model, input_size=32, generator_width=32)
    print([round(loss, 3) for loss in train(boosted, digits.steps_asked_for(__doc__))])
    assert boosted.unwrap() is model


if __name__ == "__main__":
    main()
