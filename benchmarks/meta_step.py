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

import abc
import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from _equations import loss_of_exits
from _measure import Counted, Step, environment, medians, peak_memory_mb, print_json, rounded, say
from torch import Tensor, nn
from torch.func import functional_call

from metadistiller.config import Choice, Config
from metadistiller.data import Batch, seeded
from metadistiller.engine.machine import Machine, keep_freed_memory, resolve
from metadistiller.meta import meta_loss
from metadistiller.methods import Setting
from metadistiller.methods.metadistiller import MetaDistiller, Options, build
from metadistiller.nn import Backbone, LabelGenerator, MultiExit, build_network

ALPHA, TEMPERATURE, INNER_LR = 0.5, 1.0, 0.1
RATES = {"student": INNER_LR, "generator": 0.001}
CLASSES, SIDE = 100, 32

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


def network_of(model: Choice, classes: int = CLASSES) -> Backbone:
    """The same weights at each call."""
    with seeded(0, "backbone"):
        return build_network(model, classes)


def machine_of(model: Choice, precision: Literal["auto", "float32"] = "auto") -> Machine:
    """What a run of the network takes here."""
    method = Choice(name="metadistiller")
    return Machine.of(resolve(Config(data=Choice(name="cifar100"), model=model, method=method, precision=precision)))


@dataclass(frozen=True)
class Scene:
    """Student and generator on a machine, with one batch of X_train and one of X_test; the same numbers on each."""

    method: MetaDistiller
    machine: Machine
    train_batch: Batch
    heldout_batch: Batch

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        batch: int,
        machine: Machine,
        *,
        width: int | Literal["mirror"] = "mirror",
        dtype: torch.dtype = torch.float32,
    ) -> "Scene":
        """Args: backbone: not used elsewhere. batch: images of either. width: of the generator."""
        options = Options(alpha=ALPHA, temperature=TEMPERATURE, generator_width=width)
        method = build(options, Setting(backbone, (SIDE, SIDE), seed=0)).to(dtype).train()
        machine.place(method)
        with seeded(0, "batches"):
            images, labels = torch.randn(2, batch, 3, SIDE, SIDE), torch.randint(backbone.num_classes, (2, batch))
        train, heldout = (
            (machine.arrange(x.to(machine.device, dtype)), y.to(machine.device))
            for x, y in zip(images, labels, strict=True)
        )
        return cls(method, machine, train, heldout)

    @property
    def student(self) -> MultiExit:
        return self.method.boosting.student

    @property
    def generator(self) -> LabelGenerator:
        assert self.method.generator is not None
        return self.method.generator


def taken(module: nn.Module) -> list[Tensor]:
    """The gradients in .grad of a module's parameters, where they are then no more."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return gradients


# Ours


def student_step(s: Scene) -> list[Tensor]:
    """The student's forward and backward pass, as in an epoch without meta steps."""
    (student,) = s.method.objectives(1)
    with s.machine.autocast():
        losses = student.loss(s.train_batch, RATES)
    losses.total.backward(inputs=list(s.student.parameters()))
    taken(s.student)
    return []


def shared_step(s: Scene) -> list[Tensor]:
    """The student's pass and then the generator's, which shares its gradient, as in a meta epoch."""
    student, generator = s.method.objectives(0)
    with s.machine.autocast():
        losses = student.loss(s.train_batch, RATES)
    losses.total.backward(inputs=list(s.student.parameters()))
    with s.machine.autocast():
        losses = generator.loss(s.heldout_batch, RATES)
    losses.total.backward(inputs=list(s.generator.parameters()))
    taken(s.student)
    return taken(s.generator)


def own_step(s: Scene) -> list[Tensor]:
    """The generator's gradient with a look-ahead of its own."""
    with s.machine.autocast():
        found = meta_loss(
            s.student,
            s.generator,
            s.train_batch,
            s.heldout_batch,
            inner_lr=INNER_LR,
            alpha=ALPHA,
            temperature=TEMPERATURE,
        )
    found.surrogate.backward(inputs=list(s.generator.parameters()))
    return taken(s.generator)


# What ours is held against; nothing here comes from metadistiller.meta or metadistiller.losses.


def double_backward(s: Scene) -> list[Tensor]:
    student, generator = s.student, s.generator
    images, labels = s.train_batch
    features, exits = student(images)
    loss = loss_of_exits(
        exits, generator([feature.detach() for feature in features]), labels, alpha=ALPHA, temperature=TEMPERATURE
    )
    params = dict(student.named_parameters())
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    fast = {name: p - INNER_LR * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    images, labels = s.heldout_batch
    _, exits = functional_call(student, fast, (images,))
    return list(torch.autograd.grad(F.cross_entropy(exits[-1], labels), list(generator.parameters())))


def library() -> Any:
    """`higher`, so that it takes this package's networks.

    Raises: SystemExit where it is not installed.
    """
    try:
        import higher
    except ImportError:
        raise SystemExit("higher is not installed; it is in the extra test: pip install '.[test]'") from None
    base = higher.patch._MonkeyPatchBase
    if base.__bases__ == (abc.ABC, nn.Module):
        # For each module higher makes a class that inherits from the module's own and from this base, of ABC and Module
        # in this order. Python refuses that where the module's own class has them in the other, as Backbone has. The
        # order decides nothing else: neither class defines what the other does.
        left_out = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl")
        body = {name: value for name, value in vars(base).items() if name not in left_out}
        higher.patch._MonkeyPatchBase = abc.ABCMeta(base.__name__, (nn.Module, abc.ABC), body)
    return higher


class _Layers(nn.ModuleList):
    """A ModuleList whose slices are plain lists: for a slice torch's makes another of its class, and the classes that
    higher puts in place cannot be made so.
    """

    def __getitem__(self, index: Any) -> Any:
        return list(self._modules.values())[index]


def sliceable(module: nn.Module) -> None:
    """Let higher take networks that slice their lists of layers, as WideResNet does."""
    for part in module.modules():
        if type(part) is nn.ModuleList:
            part.__class__ = _Layers


def by_higher(s: Scene) -> list[Tensor]:
    student, generator = s.student, s.generator
    inner = torch.optim.SGD(student.parameters(), lr=INNER_LR)
    with library().innerloop_ctx(student, inner, copy_initial_weights=False, track_higher_grads=True) as (
        fast,
        diffopt,
    ):
        images, labels = s.train_batch
        features, exits = fast(images)
        loss = loss_of_exits(
            exits, generator([feature.detach() for feature in features]), labels, alpha=ALPHA, temperature=TEMPERATURE
        )
        diffopt.step(loss)
        images, labels = s.heldout_batch
        _, exits = fast(images)
        F.cross_entropy(exits[-1], labels).backward()
    taken(student)
    return taken(generator)


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


# Measuring


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
