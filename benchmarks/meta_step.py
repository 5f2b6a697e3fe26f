"""One update of the generator: time, memory and exactness against other ways to the same gradient.

Usage:
    python benchmarks/meta_step.py [--quick] [--json] [--networks A,B] [--batches N,N] [--repeats N]

Needs the extra `test` (pip install '.[test]'), which holds `higher`.

MetaDistiller of the paper (alpha 0.5, tau 1, zeta 0.1, a mirror generator, the held-out loss of the final output) on
fresh networks, random images of 32 x 32 pixels and 100 classes; the batch of X_test is as large as that of X_train. The
forms, all of which end at the gradient of theta_g and leave out Adam's step, which is the same for all:

    double_backward  as eqs. 3, 4, 7, 8 are written with torch alone: the graph of the look-ahead is kept, and the
                     held-out loss is differentiated through it, for theta_g only. float32, default memory format
    higher           the same by the library `higher` as its users write it: diffopt.step(loss), then backward() to all
                     leaves. float32, default memory format
    plain_step       no meta step: a training step of the network alone, without exits, by SGD with momentum, from
                     images in memory. float32, default memory format
    own              ours, as Algorithm 1 has it: the look-ahead has a batch of its own; in the precision and memory
                     format that a run takes on this machine
    shared           ours, as runs do it: the student's gradient is the look-ahead. The time and the operations are what
                     it adds to the student's step, shared_step - student_step; the memory is the whole shared_step's
    own_float32, shared_float32    the same in float32, in the memory format that a run then takes
    student_step, shared_step, ..._float32    what shared is the difference of: the student's forward and backward pass
                     with exits and targets, and the same with the generator's gradient

All forms run in one process, whose allocator keeps freed memory as that of `metadistiller train` does, and take turns.
Time: median over the turns after the warm-up. Memory: the most that torch has allocated within the step, above what it
held before. Operations: of ATen, the backward passes' too. relative_error: of the generator's gradient against double
backward in float64 at the same weights and batches, ||a - b|| / ||b||, at one batch size of each network (else null).

Rounding moves theta_s^+ by a millionth, and units near the kink of their ReLU fall on its other side: on fresh networks
that alone is a percent or more in float32, of double backward just as of ours, and how much changes with the memory
format; bfloat16 errs by far more there than on a network that has learned. What a form is in itself shows in float64:
own_float64 and shared_float64 are held against double backward there, and neither timed nor part of a ratio.

To standard error a table; with --json the last line of standard output is one object. Its ratios are of the case that
"headline" names: time and peak memory over double_backward's, higher's and plain_step's; "ratios" has them for own,
"shared" for shared, "float32" the same two in float32. The top relative_error is that of the form itself, the largest
of own_float64 and shared_float64 over all cases; relative_error_float32 and relative_error_float32_of_double_backward
stand beside.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _measure import Counted, Step, environment, medians, peak_memory_mb, print_json, rounded, say
from _meta_forms import (
    INNER_LR,
    Scene,
    by_higher,
    double_backward,
    library,
    machine_of,
    network_of,
    own_step,
    shared_step,
    sliceable,
    student_step,
)
from torch import Tensor, nn

from metadistiller.config import Choice
from metadistiller.data import Batch
from metadistiller.engine.machine import Machine, keep_freed_memory

BASELINES = ("double_backward", "higher", "plain_step")


@dataclass(frozen=True)
class Case:
    """One network at one batch size.

    Attributes:
        model: the network.
        batch: images of X_train, and of X_test.
        checked: whether gradients are held against float64's, which takes twice double_backward's memory.
    """

    model: Choice
    batch: int
    checked: bool


def plain_step(network: nn.Module, batch: Batch) -> Step:
    """A step of an ordinary training loop; the network moves."""
    images, labels = batch
    optimizer = torch.optim.SGD(network.parameters(), lr=INNER_LR, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    # The first step makes the momenta, which no other does.
    step()
    return step


def steps_of(case: Case) -> dict[str, Callable[[], Any]]:
    """Of each form what is run; of shared what it is the difference of, side by side."""
    run, float32 = machine_of(case.model), machine_of(case.model, "float32")
    default = Machine(run.device, bfloat16=False, channels_last=False)
    here, exact, usual, patched = (
        Scene.of(network_of(case.model), case.batch, machine) for machine in (run, float32, default, default)
    )
    sliceable(patched.student)
    alone = network_of(case.model)
    default.place(alone)
    return {
        "double_backward": lambda: double_backward(usual),
        "higher": lambda: by_higher(patched),
        "plain_step": plain_step(alone, usual.train_batch),
        "own": lambda: own_step(here),
        "student_step": lambda: student_step(here),
        "shared_step": lambda: shared_step(here),
        "own_float32": lambda: own_step(exact),
        "student_step_float32": lambda: student_step(exact),
        "shared_step_float32": lambda: shared_step(exact),
    }


def in_float64(case: Case) -> dict[str, Tensor]:
    """The gradient of theta_g, flat: by double backward, and by own and shared."""
    default = Machine(machine_of(case.model).device, bfloat16=False, channels_last=False)
    scene = Scene.of(network_of(case.model), case.batch, default, dtype=torch.float64)
    forms = {"double_backward": double_backward, "own": own_step, "shared": shared_step}
    return {name: flat(form(scene)) for name, form in forms.items()}


def flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([g.detach().double().flatten() for g in gradients])


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def measure(case: Case, *, repeats: int, warmup: int) -> dict[str, dict[str, float | int | None]]:
    """Of each form median_ms, peak_mb, operations and relative_error, which is None where it is not asked for."""
    say(f"{case.model.name}, batch {case.batch}")
    device = machine_of(case.model).device
    steps = steps_of(case)
    exact = in_float64(case) if case.checked else None
    peaks: dict[str, float] = {}
    counts: dict[str, int] = {}
    errors: dict[str, float] = {}
    # This turn warms up, too.
    for name, step in steps.items():
        counted = Counted(step)
        peaks[name], counts[name] = peak_memory_mb(counted, device), counted.operations
        if exact is not None and counted.result:
            errors[name] = relative_error(flat(counted.result), exact["double_backward"])
        del counted
    times = medians(steps, device=device, repeats=repeats, warmup=warmup, note=say)
    found: dict[str, dict[str, float | int | None]] = {
        name: {
            "median_ms": times[name],
            "peak_mb": peaks[name],
            "operations": counts[name],
            "relative_error": errors.get(name),
        }
        for name in steps
    }
    for end in ("", "_float32"):
        whole, student = found[f"shared_step{end}"], found[f"student_step{end}"]
        added = {key: whole[key] - student[key] for key in ("median_ms", "operations")}
        found[f"shared{end}"] = {**whole, **added}
    if exact is not None:
        untimed = {"median_ms": None, "peak_mb": None, "operations": None}
        for name in ("own", "shared"):
            error = relative_error(exact[name], exact["double_backward"])
            found[f"{name}_float64"] = {**untimed, "relative_error": error}
    return found


def ratios(found: dict[str, dict[str, Any]], form: str) -> dict[str, float]:
    """Time over double_backward's, higher's and plain_step's, memory over the first two."""
    mine = found[form]
    times = {f"time_vs_{name}": mine["median_ms"] / found[name]["median_ms"] for name in BASELINES}
    memories = {f"memory_vs_{name}": mine["peak_mb"] / found[name]["peak_mb"] for name in BASELINES[:2]}
    return times | memories


def benchmark(cases: Sequence[Case], *, repeats: int, warmup: int) -> dict[str, Any]:
    """What --json prints; the headline is the first network's largest batch."""
    library()
    details: dict[str, dict[str, Any]] = {}
    for case in cases:
        found = measure(case, repeats=repeats, warmup=warmup)
        details.setdefault(case.model.name, {})[str(case.batch)] = found
        say(table(found))
    first = max((case for case in cases if case.model == cases[0].model), key=lambda case: case.batch)
    headline = details[first.model.name][str(first.batch)]

    def largest_error(*forms: str) -> float | None:
        cases = [found for batches in details.values() for found in batches.values()]
        errors = [found[form]["relative_error"] for found in cases for form in forms if form in found]
        return max((error for error in errors if error is not None), default=None)

    return rounded(
        {
            "headline": {"network": first.model.name, "batch": first.batch},
            "ratios": ratios(headline, "own"),
            "shared": ratios(headline, "shared"),
            "float32": {"ratios": ratios(headline, "own_float32"), "shared": ratios(headline, "shared_float32")},
            "relative_error": largest_error("own_float64", "shared_float64"),
            "relative_error_float32": largest_error("own_float32", "shared_float32"),
            "relative_error_float32_of_double_backward": largest_error("double_backward"),
            "details": details,
            "repeats": repeats,
            "formats": {case.model.name: formats(case.model) for case in cases},
            "environment": environment(machine_of(first.model).device),
        }
    )


def formats(model: Choice) -> dict[str, list[str]]:
    """What ours computes in: precision and memory format, of own and shared, and of the two in float32."""
    machines = {"run": machine_of(model), "float32": machine_of(model, "float32")}
    described = {name: machine.describe() for name, machine in machines.items()}
    return {name: [found["precision"], found["memory_format"]] for name, found in described.items()}


def table(found: dict[str, dict[str, Any]]) -> str:
    columns = {"median_ms": "10.1f", "peak_mb": "10.1f", "operations": "12d", "relative_error": "10.1e"}
    lines = [f"  {'':22}{'ms':>10}{'MiB':>10}{'operations':>12}{'error':>10}"]
    for name, row in found.items():
        cells = [" " * int(form[:2]) if row[key] is None else f"{row[key]:{form}}" for key, form in columns.items()]
        lines.append(f"  {name:22}{''.join(cells)}")
    return "\n".join(lines)


def cases_of(networks: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """All pairs; each network is checked at its smallest batch."""
    return [Case(Choice(name=name), batch, batch == min(batches)) for name in networks for batch in batches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and few turns: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    parser.add_argument("--networks", help="comma-separated; resnet18,wrn16_1")
    parser.add_argument("--batches", help="comma-separated; 64,128")
    parser.add_argument("--repeats", type=int, help="turns that count; 7, quick 2")
    given = parser.parse_args()
    if given.quick and not (given.networks or given.batches):
        # ResNet18 in float64 would take half of the minute.
        cases = [Case(Choice(name="resnet18"), 16, False), Case(Choice(name="wrn16_1"), 32, True)]
    else:
        networks = (given.networks or "resnet18,wrn16_1").split(",")
        cases = cases_of(networks, [int(batch) for batch in (given.batches or "64,128").split(",")])
    # As the command does, for all forms alike.
    kept = keep_freed_memory()
    result = benchmark(cases, repeats=given.repeats or (2 if given.quick else 7), warmup=0 if given.quick else 1)
    result["environment"]["freed_memory_kept"] = kept
    if given.json:
        print_json(result)


if __name__ == "__main__":
    main()
