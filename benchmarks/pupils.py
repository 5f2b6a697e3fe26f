"""What generators learn from one and the same meta-gradient, several at once.

Usage:
    python benchmarks/pupils.py --root FOLDER --epochs 20 --json

The derivative u_k of eq. 8 does not depend on the generator. So one student, trained by --student, gives u_k at every
step, and every pupil, a generator with a learning rate of its own, learns from it: what differs between two curves is
the generator and nothing else. It is not what a run of metadistiller does, whose student follows the generator's
targets; it says whether there is anything to learn, for whom, and in how many steps.

For each pupil and each exit, means over the steps of an epoch, before the pupil has seen the batch: accuracy, entropy
and confidence of T_k, and its gain and alignment (metadistiller.meta.Judged). Beside them the same of what needs no
meta-gradient: the label, the final output, the exit's own output, and no class before another.

CIFAR-100 with --per_class training images a class, crop and mirror, a one-block-a-stage ResNet, batch 128.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _measure import environment, print_json, rounded, say
from torch import Tensor

from metadistiller.building import load_data
from metadistiller.config import Choice, Optim
from metadistiller.data import Batches, Disjoint, Train, seeded
from metadistiller.engine.optim import rate_factor
from metadistiller.losses import self_boosting_loss, target_statistics
from metadistiller.meta import Kept, directional_derivatives, heldout_gradient, judge, shared_look_ahead
from metadistiller.nn import LabelGenerator, MultiExit, build_network, stage_shapes

ALPHA = 0.5
SHOWN = ("alignment", "gain", "accuracy", "entropy")
# Label -> the generator's options, Adam's learning rate, and for how many epochs labels teach first.
PUPILS: dict[str, tuple[dict[str, Any], float, int]] = {
    "1e-3": ({}, 1e-3, 0),
    "1e-4": ({}, 1e-4, 0),
    "1e-5": ({}, 1e-5, 0),
    "1e-4, normalised maps": ({"norm": "batch"}, 1e-4, 0),
    "1e-4, width 64": ({"width": 64}, 1e-4, 0),
    "1e-4, after 5 epochs of labels at 1e-3": ({}, 1e-4, 5),
    "residual, 1e-3": ({"residual": True}, 1e-3, 0),
    "residual, 1e-4": ({"residual": True}, 1e-4, 0),
}


@dataclass
class Pupil:
    generator: LabelGenerator
    lr: float
    labels_for: int
    optimizer: torch.optim.Optimizer
    taught: str = "labels"

    def rate(self, epoch: int, factor: float) -> None:
        if epoch == self.labels_for and self.taught != "meta":
            # As in a run: the meta-gradient's Adam knows nothing of the labels' gradients.
            self.taught = "meta"
            self.optimizer = torch.optim.Adam(self.generator.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (1e-3 if epoch < self.labels_for else self.lr)

    def learn(self, epoch: int, logits: Sequence[Tensor], u: Sequence[Tensor], labels: Tensor) -> None:
        if epoch < self.labels_for:
            parts = [F.cross_entropy(each.float(), labels) for each in logits]
        else:
            # Without zeta (1 - alpha), a constant until the rate drops, which Adam divides away.
            parts = [(F.softmax(each.float(), 1) * u_k).sum(1).mean() for each, u_k in zip(logits, u, strict=True)]
        torch.stack(parts).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def pupils(student: MultiExit, size: tuple[int, int], chosen: Sequence[str]) -> dict[str, Pupil]:
    backbone = student.backbone
    found = {}
    for label in chosen:
        options, lr, labels_for = PUPILS[label]
        with seeded(0, "generator"):
            generator = LabelGenerator(
                stage_shapes(backbone, size), backbone.num_classes, exit_design=backbone.exit_design, **options
            )
        found[label] = Pupil(generator, lr, labels_for, torch.optim.Adam(generator.parameters(), lr=lr))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder of CIFAR-100")
    parser.add_argument("--per_class", type=int, default=50)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20, help="to train")
    parser.add_argument("--of", type=int, default=50, help="epochs of the schedule that they are the first of")
    parser.add_argument("--student", choices=("dsn", "self_distillation"), default="self_distillation")
    parser.add_argument("--heldout", choices=("final", "all"), default="final")
    parser.add_argument("--heldout_batch_size", type=int, default=512)
    parser.add_argument("--pupils", nargs="+", choices=tuple(PUPILS), default=tuple(PUPILS))
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    dataset = load_data(Choice(name="cifar100", options={"root": given.root, "train_per_class": given.per_class}))
    view = dataset.training_view(seed=0, device=torch.device("cpu"), memory_format=torch.channels_last)
    batches = Batches(view, batch_size=128)
    with seeded(0, "backbone"):
        backbone = build_network(Choice(name="resnet10", options={"width": given.width}), dataset.num_classes)
    with seeded(0, "exits"):
        student = MultiExit(backbone, dataset.size).to(memory_format=torch.channels_last).train()
    recipe = Optim()
    optimizer = torch.optim.SGD(student.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    taught = pupils(student, dataset.size, given.pupils)
    curves: list[dict[str, Any]] = []
    began = time.perf_counter()
    for epoch in range(given.epochs):
        sums: dict[str, dict[str, float]] = {}
        for step in range(batches.steps_per_epoch):
            factor = rate_factor(recipe, epochs=given.of, epoch=epoch, progress=step / batches.steps_per_epoch)
            optimizer.param_groups[0]["lr"] = recipe.lr * factor
            train = batches.batch(Train(), epoch=epoch, step=step)
            heldout = batches.batch(Disjoint(batch_size=given.heldout_batch_size), epoch=epoch, step=step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = one_step(student, train, heldout, lr=recipe.lr * factor, given=given)
                for label, pupil in taught.items():
                    pupil.rate(epoch, factor)
                    targets = pupil.generator(found["features"], found["exits"][-1])
                    add(sums, label, targets, found["u"], train[1])
                    pupil.learn(epoch, targets, found["u"], train[1])
            optimizer.step()
            optimizer.zero_grad()
            exits, early = found["exits"], len(found["u"])
            one_hot = 100.0 * F.one_hot(train[1], dataset.num_classes)
            untaught = {
                "label": [one_hot] * early,
                "final": exits[-1:] * early,
                "exit": exits[:-1],
                "uniform": [torch.zeros_like(one_hot)] * early,
            }
            for label, logits in untaught.items():
                add(sums, label, logits, found["u"], train[1])
            sums.setdefault("student", {}).setdefault("heldout_loss", 0.0)
            sums["student"]["heldout_loss"] += found["heldout_loss"].item()
        steps = batches.steps_per_epoch
        means = {label: {key: value / steps for key, value in each.items()} for label, each in sums.items()}
        curves.append({"epoch": epoch, "steps": (epoch + 1) * steps, **means})
        loss = means["student"]["heldout_loss"]
        say(f"epoch {epoch + 1}, {time.perf_counter() - began:.0f} s, held-out loss {loss:.3f}")
        for label, each in means.items():
            if label != "student":
                shown = (" / ".join(f"{each[f'target_{k}_{what}']:.3f}" for k in range(1, early + 1)) for what in SHOWN)
                say(f"  {label:40} " + ", ".join(f"{what} {each}" for what, each in zip(SHOWN, shown, strict=True)))
    if given.json:
        print_json(
            rounded(
                {
                    "given": {key: value for key, value in vars(given).items() if key not in ("root", "json")},
                    "curves": curves,
                    "environment": environment(torch.device("cpu")),
                }
            )
        )


def one_step(
    student: MultiExit,
    train: tuple[Tensor, Tensor],
    heldout: tuple[Tensor, Tensor],
    *,
    lr: float,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """The student's gradient, in .grad, and u_k."""
    kept = Kept()
    with kept:
        features, exits = student(train[0])
    soft = [exits[-1].detach()] * (len(exits) - 1) if given.student == "self_distillation" else None
    alpha = ALPHA if soft else 1.0
    loss, _ = self_boosting_loss(exits, train[1], soft, alpha=alpha, temperature=1.0)
    loss.backward()
    ahead = shared_look_ahead(student, train, [], inner_lr=lr, kept=kept)
    heldout_loss, v = heldout_gradient(student, ahead.fast_params, heldout, heldout=given.heldout)
    u = directional_derivatives(student, v, train[0], temperature=1.0, kept=kept)
    return {
        "features": [feature.detach() for feature in features],
        "exits": [logits.detach() for logits in exits],
        "u": u,
        "heldout_loss": heldout_loss,
    }


def add(
    sums: dict[str, dict[str, float]], label: str, targets: Sequence[Tensor], u: Sequence[Tensor], labels: Tensor
) -> None:
    """One batch more in the sums of one row."""
    detached = [logits.detach() for logits in targets]
    values = target_statistics(detached, labels, temperature=1.0)
    for k, (logits, u_k) in enumerate(zip(detached, u, strict=True), start=1):
        judged = judge(u_k, F.softmax(logits.float(), 1))
        values |= {f"target_{k}_gain": judged.gain, f"target_{k}_alignment": judged.alignment}
    row = sums.setdefault(label, {})
    for key, value in values.items():
        row[key] = row.get(key, 0.0) + value.item()


if __name__ == "__main__":
    main()
