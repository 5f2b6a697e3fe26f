"""What generators learn from one and the same meta-gradient, several at once.

Usage:
    python benchmarks/pupils.py --root FOLDER --epochs 20 --out FILE --json

The derivative u_k of eq. 8 does not depend on the generator. So one student, trained by --student, gives u_k at every
step, once for each of --judges, which are the held-out losses; and every pupil, a generator with a learning rate of its
own, learns from it: what differs between two curves is the generator, or the judge, and nothing else. It is not what a
run of metadistiller does, whose student follows the generator's targets; it says whether there is anything to learn,
for whom, and in how many steps.

For each judge, each of its pupils and each exit, means over the steps of an epoch, before the pupil has seen the batch:
accuracy, entropy and confidence of T_k, and its gain and alignment (metadistiller.meta.Judged). Beside them the same of
what needs no meta-gradient: the label, the final output, the exit's own output, and no class before another. --out
keeps what there is after each epoch.

CIFAR-100 with --per_class training images a class, crop and mirror, a one-block-a-stage ResNet, batch 128.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import environment, print_json, rounded, say
from _targets import derivative, untaught
from _unseen import unseen
from torch import Tensor

from metadistiller.building import load_data
from metadistiller.config import Choice, Optim
from metadistiller.data import Batches, Dataset, Disjoint, ImageSet, Train, seeded
from metadistiller.engine.optim import rate_factor
from metadistiller.losses import self_boosting_loss, target_statistics
from metadistiller.meta import Heldout, Kept, judge, restraint
from metadistiller.nn import LabelGenerator, MultiExit, build_network, stage_shapes
from metadistiller.records import write_text

ALPHA = 0.5
ALWAYS = 10**9
SHOWN = ("alignment", "gain", "accuracy", "entropy")


@dataclass(frozen=True)
class Plan:
    """How one generator is taught.

    Attributes:
        options: of the generator.
        lr: Adam's.
        labels_for: epochs in which labels teach, first.
        kl_weight: of the restraint (metadistiller.meta.restraint).
    """

    options: dict[str, Any]
    lr: float
    labels_for: int = 0
    kl_weight: float = 0.0


PUPILS: dict[str, Plan] = {
    "1e-1": Plan({}, 1e-1),
    "1e-2": Plan({}, 1e-2),
    "1e-3": Plan({}, 1e-3),
    "1e-4": Plan({}, 1e-4),
    "1e-5": Plan({}, 1e-5),
    "1e-4, normalised maps": Plan({"norm": "batch"}, 1e-4),
    "1e-4, width 64": Plan({"width": 64}, 1e-4),
    "1e-4, after 5 epochs of labels at 1e-3": Plan({}, 1e-4, labels_for=5),
    "residual, 1e-3": Plan({"residual": True}, 1e-3),
    "residual, 1e-4": Plan({"residual": True}, 1e-4),
    "1e-3, restrained by 0.1": Plan({}, 1e-3, kl_weight=0.1),
    "residual, 1e-3, restrained by 0.1": Plan({"residual": True}, 1e-3, kl_weight=0.1),
    "residual, 1e-3, restrained by 0.3": Plan({"residual": True}, 1e-3, kl_weight=0.3),
    "labels alone, 1e-3": Plan({}, 1e-3, labels_for=ALWAYS),
}
# Label -> the outputs that the held-out loss sums over, its images, and whether the student never trains on them.
JUDGES: dict[str, tuple[Heldout, int, bool]] = {
    "final, 128": ("final", 128, False),
    "final, 512": ("final", 512, False),
    "all, 512": ("all", 512, False),
    "final, 512 unseen": ("final", 512, True),
}


@dataclass
class Pupil:
    generator: LabelGenerator
    plan: Plan
    optimizer: torch.optim.Optimizer
    taught: str = "labels"

    def rate(self, epoch: int, factor: float) -> None:
        if epoch == self.plan.labels_for and self.taught != "meta":
            # As in a run: the meta-gradient's Adam knows nothing of the labels' gradients.
            self.taught = "meta"
            self.optimizer = torch.optim.Adam(self.generator.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (1e-3 if epoch < self.plan.labels_for else self.plan.lr)

    def learn(
        self, epoch: int, targets: Sequence[Tensor], exits: Sequence[Tensor], u: Sequence[Tensor], labels: Tensor
    ) -> None:
        """exits: of this step's pass, detached; the last is the final output."""
        logits = [each.float() for each in targets]
        if epoch < self.plan.labels_for:
            loss = torch.stack([F.cross_entropy(each, labels) for each in logits]).sum()
        else:
            loss = self.objective(logits, u, exits[-1])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def objective(self, logits: list[Tensor], u: Sequence[Tensor], final: Tensor) -> Tensor:
        # Without zeta (1 - alpha), a constant until the rate drops, which Adam divides away.
        total = torch.stack([(F.softmax(each, 1) * u_k).sum(1).mean() for each, u_k in zip(logits, u, strict=True)])
        if not self.plan.kl_weight:
            return total.sum()
        away = restraint(u, logits, self.generator.reference(final), temperature=1.0)
        return total.sum() + self.plan.kl_weight * away


def pupils(student: MultiExit, size: tuple[int, int], chosen: Sequence[str], seed: int) -> dict[str, Pupil]:
    backbone = student.backbone
    found = {}
    for label in chosen:
        plan = PUPILS[label]
        with seeded(seed, "generator"):
            generator = LabelGenerator(
                stage_shapes(backbone, size), backbone.num_classes, exit_design=backbone.exit_design, **plan.options
            )
        found[label] = Pupil(generator, plan, torch.optim.Adam(generator.parameters(), lr=plan.lr))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder of CIFAR-100")
    parser.add_argument("--per_class", type=int, default=50)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20, help="to train")
    parser.add_argument("--of", type=int, default=50, help="epochs of the schedule that they are the first of")
    parser.add_argument("--student", choices=("dsn", "self_distillation"), default="self_distillation")
    parser.add_argument("--judges", nargs="+", choices=tuple(JUDGES), default=["final, 512"])
    parser.add_argument("--pupils", nargs="+", choices=tuple(PUPILS), default=tuple(PUPILS))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the numbers, written after each epoch")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    dataset = load_data(Choice(name="cifar100", options={"root": given.root, "train_per_class": given.per_class}))
    streams = {False: batches_of(dataset, given.seed)}
    if any(JUDGES[name][2] for name in given.judges):
        whole = load_data(Choice(name="cifar100", options={"root": given.root})).train
        assert isinstance(whole, ImageSet)
        assert isinstance(dataset.train, ImageSet)
        streams[True] = batches_of(replace(dataset, train=unseen(whole, dataset.train)), given.seed)
    with seeded(given.seed, "backbone"):
        backbone = build_network(Choice(name="resnet10", options={"width": given.width}), dataset.num_classes)
    with seeded(given.seed, "exits"):
        student = MultiExit(backbone, dataset.size).to(memory_format=torch.channels_last).train()
    recipe = Optim()
    optimizer = torch.optim.SGD(student.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    taught = {name: pupils(student, dataset.size, given.pupils, given.seed) for name in given.judges}
    curves: list[dict[str, Any]] = []
    began = time.perf_counter()
    steps = streams[False].steps_per_epoch
    for epoch in range(given.epochs):
        sums: dict[str, dict[str, dict[str, float]]] = {name: {} for name in given.judges}
        for step in range(steps):
            factor = rate_factor(recipe, epochs=given.of, epoch=epoch, progress=step / steps)
            lr = optimizer.param_groups[0]["lr"] = recipe.lr * factor
            train = streams[False].batch(Train(), epoch=epoch, step=step)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=given.precision == "bfloat16"):
                features, exits, kept = own_gradient(student, train, given.student)
                for name, each in sums.items():
                    outputs, size, of_unseen = JUDGES[name]
                    heldout = streams[of_unseen].batch(Disjoint(batch_size=size), epoch=epoch, step=step)
                    loss, u = derivative(student, train, heldout, lr=lr, outputs=outputs, kept=kept)
                    row = each.setdefault("student", {"heldout_loss": 0.0})
                    row["heldout_loss"] += loss.item()
                    for label, pupil in taught[name].items():
                        pupil.rate(epoch, factor)
                        targets = pupil.generator(features, exits[-1])
                        add(each, label, targets, u, train[1])
                        pupil.learn(epoch, targets, exits, u, train[1])
                    for label, logits in untaught(exits, train[1]).items():
                        add(each, label, logits, u, train[1])
            optimizer.step()
            optimizer.zero_grad()
        curves.append(
            {
                "epoch": epoch,
                "steps": (epoch + 1) * steps,
                "judges": {
                    name: {label: {key: value / steps for key, value in row.items()} for label, row in each.items()}
                    for name, each in sums.items()
                },
            }
        )
        say(f"epoch {epoch + 1}, {time.perf_counter() - began:.0f} s")
        tell(curves[-1]["judges"])
        found = rounded(
            {
                "given": {key: value for key, value in vars(given).items() if key not in ("root", "json", "out")},
                "curves": curves,
                "environment": environment(torch.device("cpu")),
            }
        )
        if given.out:
            write_text(given.out, json.dumps(found) + "\n")
    if given.json:
        print_json(found)


def batches_of(dataset: Dataset, seed: int) -> Batches:
    view = dataset.training_view(seed=seed, device=torch.device("cpu"), memory_format=torch.channels_last)
    return Batches(view, batch_size=128)


def own_gradient(
    student: MultiExit, train: tuple[Tensor, Tensor], method: str
) -> tuple[list[Tensor], list[Tensor], Kept]:
    """A step's own pass: the student's gradient in .grad; maps and logits, detached; and what was kept of it."""
    kept = Kept()
    with kept:
        features, exits = student(train[0])
    soft = [exits[-1].detach()] * (len(exits) - 1) if method == "self_distillation" else None
    loss, _ = self_boosting_loss(exits, train[1], soft, alpha=ALPHA if soft else 1.0, temperature=1.0)
    loss.backward()
    return [feature.detach() for feature in features], [logits.detach() for logits in exits], kept


def tell(judges: dict[str, dict[str, dict[str, float]]]) -> None:
    for name, rows in judges.items():
        say(f"{name}: held-out loss {rows['student']['heldout_loss']:.3f}")
        for label, row in rows.items():
            if label != "student":
                early = sum(key.endswith("_gain") for key in row)
                shown = (" / ".join(f"{row[f'target_{k}_{what}']:.3f}" for k in range(1, early + 1)) for what in SHOWN)
                say(f"  {label:40} " + ", ".join(f"{what} {each}" for what, each in zip(SHOWN, shown, strict=True)))


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
