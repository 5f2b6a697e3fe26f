"""Boost a network in a plain PyTorch loop: python examples/plain_pytorch.py --steps 20"""

from collections.abc import Iterable

import digits
import torch

import metadistiller
from metadistiller import Boosted


def train(boosted: Boosted, steps: Iterable[digits.Step], *, lr: float = 0.05) -> list[float]:
    """The student's loss in each step."""
    student = torch.optim.SGD(boosted.student_parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, fused=True)
    generator = torch.optim.Adam(boosted.generator_parameters(), lr=0.001, fused=True)
    losses = []
    boosted.train()
    for (images, labels), (train_batch, heldout_batch) in steps:
        loss = boosted.loss(images, labels)
        loss.backward()
        student.step()
        student.zero_grad()
        # In long runs the generator needs this in every fifth epoch only (M of Algorithm 1).
        boosted.meta_loss(train_batch, heldout_batch, inner_lr=lr).backward()
        generator.step()
        generator.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    model = digits.network()
    boosted = metadistiller.boost(model, input_size=32, generator_width=32)
    print([round(loss, 3) for loss in train(boosted, digits.steps_asked_for(__doc__))])
    assert boosted.unwrap() is model


if __name__ == "__main__":
    main()
