"""Boost a network in Lightning, an optimizer for each of the two: python examples/lightning_module.py --steps 20"""

from collections.abc import Sequence
from typing import Any

import digits
import lightning
import torch
from torch.utils.data import DataLoader

import metadistiller
from metadistiller import Boosted


class BoostedModule(lightning.LightningModule):
    """Student and generator take turns, so optimization is manual."""

    def __init__(self, boosted: Boosted, lr: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.boosted = boosted
        self.lr = lr
        self.losses: list[float] = []

    def configure_optimizers(self) -> Any:
        student = torch.optim.SGD(
            self.boosted.student_parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4, fused=True
        )
        return student, torch.optim.Adam(self.boosted.generator_parameters(), lr=0.001, fused=True)

    def training_step(self, batch: digits.Step, batch_idx: int) -> None:
        (images, labels), (train_batch, heldout_batch) = batch
        student, generator = self.optimizers()
        loss = self.boosted.loss(images, labels)
        self.manual_backward(loss)
        student.step()
        student.zero_grad()
        self.manual_backward(self.boosted.meta_loss(train_batch, heldout_batch, inner_lr=self.lr))
        generator.step()
        generator.zero_grad()
        self.losses.append(loss.item())


def train(boosted: Boosted, steps: Sequence[digits.Step], *, lr: float = 0.05) -> list[float]:
    """The student's loss in each step."""
    module = BoostedModule(boosted, lr)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Batches come as they are.
    trainer.fit(module, DataLoader(list(steps), batch_size=None, shuffle=False))
    return module.losses


def main() -> None:
    model = digits.network()
    boosted = metadistiller.boost(model, input_size=32, generator_width=32)
    print([round(loss, 3) for loss in train(boosted, digits.steps_asked_for(__doc__))])
    assert boosted.unwrap() is model


if __name__ == "__main__":
    main()
