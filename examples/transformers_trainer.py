"""Boost a network in the Trainer of transformers: python examples/transformers_trainer.py --steps 20

The Trainer moves the student; a callback moves the generator after each of its steps. Any image classifier will do,
those of transformers included.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import digits
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

import metadistiller
from metadistiller import Boosted


class BoostTrainer(Trainer):
    """Its model is a Boosted, its batches are {"batch": (images, labels), "pair": (train_batch, heldout_batch)}."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        self.pair = inputs["pair"]
        # Called as a module, so that whatever wraps it is asked.
        loss = model(*inputs["batch"])
        self.losses = [*getattr(self, "losses", ()), loss.item()]
        return (loss, {}) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class MoveGenerator(TrainerCallback):
    """The meta step, after each step of the student."""

    def __init__(self, boosted: Boosted) -> None:
        self.boosted = boosted
        self.optimizer = torch.optim.Adam(boosted.generator_parameters(), lr=0.001, fused=True)
        self.trainer: BoostTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.trainer is not None
        inner_lr = self.trainer.optimizer.param_groups[0]["lr"]
        self.boosted.meta_loss(*self.trainer.pair, inner_lr=inner_lr).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(boosted: Boosted, steps: Sequence[digits.Step], *, lr: float = 0.05) -> list[float]:
    """The student's loss in each step."""
    student = torch.optim.SGD(boosted.student_parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, fused=True)
    constant = torch.optim.lr_scheduler.LambdaLR(student, lambda step: 1.0)
    move = MoveGenerator(boosted)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=len(steps),
            per_device_train_batch_size=1,
            max_grad_norm=0.0,
            remove_unused_columns=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        move.trainer = BoostTrainer(
            model=boosted,
            args=arguments,
            train_dataset=[{"batch": batch, "pair": pair} for batch, pair in steps],
            data_collator=lambda items: items[0],
            optimizers=(student, constant),
            callbacks=[move],
        )
        move.trainer.train()
    return move.trainer.losses


def main() -> None:
    model = digits.network()
    boosted = metadistiller.boost(model, input_size=32, generator_width=32)
    print([round(loss, 3) for loss in train(boosted, digits.steps_asked_for(__doc__))])
    assert boosted.unwrap() is model


if __name__ == "__main__":
    main()
