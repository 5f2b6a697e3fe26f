"""How far each form of the meta-gradient is from the exact one, at the weights of a run.

Usage:
    python benchmarks/meta_quality.py RUN --batches 5 --json

RUN is the folder of a metadistiller run, finished or not; its newest checkpoint is taken. The exact one is the closed
form in float64 (the tests hold it to double backward at 1e-10). For each form: relative error and cosine of the
gradient in theta_g, mean over batches; and, to read them against, the cosine between the exact meta-gradients of
different batches.
"""

import argparse
import copy
import statistics
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from _measure import environment, print_json, rounded, say
from torch import Tensor

from metadistiller.assemble import restore
from metadistiller.data import Batches, Disjoint, Train
from metadistiller.losses import self_boosting_loss
from metadistiller.meta import derivative, meta_loss, meta_loss_from, shared_look_ahead
from metadistiller.nn import LabelGenerator, MultiExit

SETTINGS = {"alpha": 0.5, "temperature": 1.0}
Pair = tuple[Tensor, Tensor]


def flat(total: Tensor, generator: LabelGenerator) -> Tensor:
    gradients = torch.autograd.grad(total, list(generator.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def own(student: MultiExit, generator: LabelGenerator, train: Pair, heldout: Pair, lr: float, **how: str) -> Tensor:
    return flat(meta_loss(student, generator, train, heldout, inner_lr=lr, **SETTINGS, **how).surrogate, generator)


def shared(student: MultiExit, generator: LabelGenerator, train: Pair, heldout: Pair, lr: float) -> Tensor:
    """As in a training step: the student's gradient comes first."""
    features, exits = student(train[0])
    targets = generator([feature.detach() for feature in features])
    loss, _ = self_boosting_loss(exits, train[1], [target.detach() for target in targets], **SETTINGS)
    loss.backward(inputs=list(student.parameters()))
    ahead = shared_look_ahead(student, train, targets, inner_lr=lr)
    total = meta_loss_from(ahead, student, heldout, inner_lr=lr, **SETTINGS).surrogate
    student.zero_grad(set_to_none=True)
    return flat(total, generator)


def forms(
    student: MultiExit, generator: LabelGenerator, train: Pair, heldout: Pair, lr: float
) -> Iterator[tuple[str, Tensor]]:
    """Each form of one step's meta-gradient; "float64" is the exact one."""
    wide = copy.deepcopy(student).double(), copy.deepcopy(generator).double()
    double = [(images.double(), labels) for images, labels in (train, heldout)]
    yield "float64", own(*wide, *double, lr)
    both = student, generator, train, heldout, lr
    yield "float32, own", own(*both)
    yield "float32, shared", shared(*both)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield "bfloat16, own", own(*both)
        yield "bfloat16, shared", shared(*both)
    kept = derivative.DIFFERENCE
    for step in (0.1, 0.01, 0.001):
        derivative.DIFFERENCE = step
        yield f"float32, differences of {step}", own(*both, derivative="finite_differences")
    derivative.DIFFERENCE = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.1, help="zeta")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    found = restore(given.run)
    method = found.method.train()
    student, generator = method.boosting.student, method.generator
    view = found.dataset.training_view(seed=found.config.seed, device=torch.device("cpu"))
    batches = Batches(view, batch_size=found.config.batch_size)
    errors: dict[str, list[tuple[float, float]]] = {}
    exact: list[Tensor] = []
    for step in range(given.batches):
        # The checkpoint's own next epoch: the student has not seen these batches in this order.
        train, heldout = (batches.batch(stream, epoch=found.epochs_done, step=step) for stream in (Train(), Disjoint()))
        state = copy.deepcopy(method.state_dict())
        for name, gradient in forms(student, generator, train, heldout, given.lr):
            if name == "float64":
                exact.append(gradient)
            else:
                away = ((gradient - exact[-1]).norm() / exact[-1].norm()).item()
                errors.setdefault(name, []).append((away, F.cosine_similarity(gradient, exact[-1], dim=0).item()))
            # A training step moves running statistics; the next form finds them as they were.
            method.load_state_dict(state)
        say(f"batch {step + 1} of {given.batches}")
    rows = {
        name: {
            "relative_error": statistics.mean(away for away, _ in each),
            "cosine": statistics.mean(cosine for _, cosine in each),
            "worst_cosine": min(cosine for _, cosine in each),
        }
        for name, each in errors.items()
    }
    others = [F.cosine_similarity(exact[i], exact[j], dim=0).item() for i in range(len(exact)) for j in range(i)]
    for name, row in rows.items():
        say(f"{name:32} relative error {row['relative_error']:.1e}  cosine {row['cosine']:.5f}")
    say(f"between different batches: cosine {statistics.mean(others):.3f}")
    if given.json:
        print_json(
            rounded(
                {
                    "network": found.config.model.name,
                    "data": found.config.data.name,
                    "epochs": found.epochs_done,
                    "batch": found.config.batch_size,
                    "batches": given.batches,
                    "lr": given.lr,
                    "forms": rows,
                    "cosine_between_batches": statistics.mean(others),
                    "environment": environment(torch.device("cpu")),
                },
                6,
            )
        )


if __name__ == "__main__":
    main()
