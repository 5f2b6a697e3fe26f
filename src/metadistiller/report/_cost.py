"""What training costs beside plain training: measured, and counted in multiply-accumulates."""

from collections.abc import Iterable, Mapping, Sequence

from metadistiller import paper
from metadistiller.ledger import Hardware, Record
from metadistiller.paired import mean_and_deviation
from metadistiller.recipes.paper import NAMES, training_cost

from ._groups import epochs_of, family, others, told
from ._markdown import table, text

INTRO = f"""\
The paper, ResNet18: MetaDistiller takes {paper.EXTRA_HOURS} h more than plain training, and training a ResNet101 as a
teacher {paper.TEACHER_HOURS} h; it does not name the machine.

Seconds of an epoch, evaluation included, and peak memory are means over runs; × is against plain training of the same
network over as many epochs on the same machine. *Counted* is that by multiply-accumulates, for the recipe. *With
teacher* adds the teacher's own training, epoch for epoch, where that was on the same device. A generator learns in
every fifth epoch from the first on, so a run of fewer than five epochs has more of the expensive ones than its
recipe."""

HEADINGS = ("network", "method", "n", "epochs", "s/epoch", "×", "counted", "with teacher ×", "counted", "MiB", "×")


def costs(records: Sequence[Record]) -> list[str]:
    """One table for each machine, and below it where seconds are missing because they are another's."""
    machines: dict[Hardware, list[list[str]]] = {}
    notes: dict[Hardware, list[str]] = {}
    for same in _weighable(records):
        methods: dict[str, list[Record]] = {}
        for record in same:
            methods.setdefault(record.method, []).append(record)
        rows = machines.setdefault(same[0].hardware, [])
        rows += [_row(methods[method], methods.get("plain", [])) for method in _ordered(methods)]
        notes.setdefault(same[0].hardware, []).extend(
            filter(None, (_note(methods[name]) for name in _ordered(methods)))
        )
    parts = ["## Cost", INTRO]
    for hardware, rows in machines.items():
        parts += [f"### {machine(hardware)}", table(HEADINGS, rows, left=2), *notes[hardware]]
    return parts


def machine(hardware: Hardware) -> str:
    return text(f"{hardware.device}, torch {hardware.torch}, {hardware.threads} threads, {hardware.precision}")


def _weighable(records: Sequence[Record]) -> list[list[Record]]:
    """Runs that can be weighed against each other: whatever method and teacher, all else is the same."""
    networks = list(paper.NETWORKS)
    found: dict[tuple[str | int, ...], list[Record]] = {}
    for record in records:
        # Another method's options, or another network, cost what no recipe says.
        if record.recipe not in NAMES or record.network not in networks or family(record.overrides, "method"):
            continue
        where = record.hardware
        rest = told(others(record.overrides, "teacher"))
        key = (where.device, where.torch, where.threads, where.precision, networks.index(record.network))
        found.setdefault((*key, -record.epochs, rest), []).append(record)
    return [found[key] for key in sorted(found)]


def _elsewhere(runs: Sequence[Record]) -> list[str | None]:
    """The devices of teachers that were not trained where their students were; None where nobody knows."""
    taught = [(run.teacher.device, run.hardware.device) for run in runs if run.teacher]
    return sorted({there for there, here in taught if there != here}, key=lambda device: device or "")


def _note(runs: Sequence[Record]) -> str:
    devices = ["a device that was not recorded" if device is None else text(device) for device in _elsewhere(runs)]
    if not devices:
        return ""
    first = runs[0]
    return (
        f"{text(first.network)}, {first.method}, {epochs_of(first)}: the teacher was trained on "
        f"{' and '.join(devices)}, so its seconds are not added to these."
    )


def _ordered(methods: Mapping[str, object]) -> list[str]:
    known = dict.fromkeys(method for found in paper.TABLES.values() for method in found.methods)
    return [method for method in known if method in methods]


def _row(runs: Sequence[Record], plain: Sequence[Record]) -> list[str]:
    first = runs[0]
    seconds, memory = _mean(_pace(run) for run in runs), _mean(run.peak_memory_mb for run in runs)
    # Seconds of two machines have no sum.
    alike = [] if _elsewhere(runs) else runs
    taught = [_pace(run) + run.teacher.seconds / run.teacher.epochs for run in alike if run.teacher]
    counted = training_cost(first.network, first.method)
    changed = others(first.overrides, "teacher")
    return [
        first.network,
        first.method,
        str(len(runs)),
        epochs_of(first).removesuffix(" epochs") + (f"; {len(changed)} changed" if changed else ""),
        f"{seconds:,.1f}",
        _times(seconds, [_pace(run) for run in plain]),
        f"{counted.own:.2f}",
        _times(_mean(taught), [_pace(run) for run in plain]) if taught else "",
        f"{counted.with_teacher:.2f}" if counted.with_teacher is not None else "",
        f"{memory:,.0f}",
        _times(memory, [run.peak_memory_mb for run in plain]),
    ]


def _pace(run: Record) -> float:
    return run.seconds / run.epochs


def _mean(values: Iterable[float]) -> float:
    return mean_and_deviation(sorted(values))[0]


def _times(value: float, plain: Sequence[float]) -> str:
    return f"{value / _mean(plain):.2f}" if any(plain) else ""
