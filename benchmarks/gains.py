"""What each kind of soft target would gain at the weights of a run, by the meta-gradient's own measure.

Usage:
    python benchmarks/gains.py RUN --steps 20 --json

RUN is the folder of a run of a method with exits, on images that are held in memory; its newest checkpoint is taken.
Nothing is trained. For each kind of target and each exit its gain and alignment (metadistiller.meta.Judged): what the
held-out loss would fall by, to first order, for that target in the student's next step.

The held-out images are those of Algorithm 1, training images that are not in the batch; and, where RUN trained with a
part of the training set (train_per_class), also images of the rest, which the student has never seen. Means over steps
with the standard error of the mean over steps.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from _measure import environment, print_json, rounded, say
from _targets import derivative, untaught
from _unseen import unseen
from torch import Tensor

from metadistiller.assemble import Restored, restore
from metadistiller.building import load_data
from metadistiller.config import Choice
from metadistiller.data import Batch, Batches, Dataset, Disjoint, ImageSet, Train
from metadistiller.losses import self_boosting_loss
from metadistiller.meta import judge
from metadistiller.nn import MultiExit


def not_trained_with(found: Restored) -> ImageSet | None:
    """The training images that the run did not train with."""
    options = {key: value for key, value in found.config.data.options.items() if key != "train_per_class"}
    if len(options) == len(found.config.data.options) or found.config.data.options["train_per_class"] is None:
        return None
    whole = load_data(Choice(name=found.config.data.name, options=options)).train
    used = found.dataset.train
    assert isinstance(whole, ImageSet)
    assert isinstance(used, ImageSet)
    return unseen(whole, used)


def batches_of(dataset: Dataset, images: ImageSet | None, found: Restored) -> Batches:
    view = (dataset if images is None else replace(dataset, train=images)).training_view(
        seed=found.config.seed, device=torch.device("cpu")
    )
    return Batches(view, batch_size=found.config.batch_size)


def targets_at(found: Restored, exits: list[Tensor], images: Tensor, labels: Tensor) -> dict[str, list[Tensor]]:
    """Probabilities T_1..T_{K-1} by kind."""
    made = {kind: [F.softmax(each, 1) for each in logits] for kind, logits in untaught(exits, labels).items()}
    own = found.method.soft_targets(images)
    return made | ({"own targets": own} if own else {})


def derivatives(
    student: MultiExit, train: Batch, heldouts: dict[str, Batch], lr: float
) -> Iterator[tuple[str, float, list[Tensor]]]:
    """For each set of held-out images its loss after the look-ahead, in nats, and u_k; the look-ahead is by labels."""
    _, exits = student(train[0])
    self_boosting_loss(exits, train[1], None, alpha=1.0, temperature=1.0)[0].backward(inputs=list(student.parameters()))
    for name, heldout in heldouts.items():
        loss, u = derivative(student, train, heldout, lr=lr, outputs="final")
        yield name, loss.item(), u
    student.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=20, help="2 or more")
    parser.add_argument("--lr", type=float, default=0.001, help="zeta; of the end of a run with the paper's schedule")
    parser.add_argument("--heldout_batch_size", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    found = restore(given.run)
    student = found.method.train().players()["student"].module
    assert isinstance(student, MultiExit), "a run of a method with exits"
    sources = {"training images": batches_of(found.dataset, None, found)}
    if (rest := not_trained_with(found)) is not None:
        sources["unseen images"] = batches_of(found.dataset, rest, found)
    values: dict[tuple[str, str, str], list[list[float]]] = {}
    losses: dict[str, list[float]] = {}
    state = {name: value.clone() for name, value in found.method.state_dict().items()}
    for step in range(given.steps):
        train = sources["training images"].batch(Train(), epoch=found.epochs_done, step=step)
        stream = Disjoint(batch_size=given.heldout_batch_size)
        heldouts = {name: each.batch(stream, epoch=found.epochs_done, step=step) for name, each in sources.items()}
        with torch.no_grad():
            kinds = targets_at(found, [logits.detach() for logits in student(train[0])[1]], *train)
        for source, loss, u in derivatives(student, train, heldouts, given.lr):
            losses.setdefault(source, []).append(loss)
            for kind, targets in kinds.items():
                judged = [judge(u_k, target) for u_k, target in zip(u, targets, strict=True)]
                values.setdefault((source, kind, "gain"), []).append([each.gain.item() for each in judged])
                values.setdefault((source, kind, "alignment"), []).append([each.alignment.item() for each in judged])
        # Passes in training mode move running statistics.
        found.method.load_state_dict(state)
    rows = []
    for (source, kind, quantity), each in values.items():
        columns = list(zip(*each, strict=True))
        means = [statistics.mean(column) for column in columns]
        errors = [statistics.stdev(column) / len(column) ** 0.5 for column in columns]
        rows.append({"held_out": source, "targets": kind, "quantity": quantity, "mean": means, "error": errors})
        told = " / ".join(f"{mean:+.4f} ± {error:.4f}" for mean, error in zip(means, errors, strict=True))
        say(f"{source:16} {kind:12} {quantity:10} {told}")
    for source, each in losses.items():
        say(f"{source}: held-out loss {statistics.mean(each):.3f}")
    if given.json:
        print_json(
            rounded(
                {
                    "network": found.config.model.as_dict(),
                    "data": {key: value for key, value in found.config.data.as_dict().items() if key != "root"},
                    "method": found.config.method.as_dict(),
                    "epochs": found.epochs_done,
                    "steps": given.steps,
                    "lr": given.lr,
                    "heldout_batch_size": given.heldout_batch_size,
                    "rows": rows,
                    "heldout_loss": {source: statistics.mean(each) for source, each in losses.items()},
                    "environment": environment(torch.device("cpu")),
                }
            )
        )


if __name__ == "__main__":
    main()
