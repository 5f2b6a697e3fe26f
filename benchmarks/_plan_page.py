"""docs/scaling.md, written from what benchmarks/plan.py has computed."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]


def written(
    values: Values, others: Mapping[float, Values], *, images_per_second: float, epochs: int, network: str, kib: int
) -> str:
    """Args: others: the same with so many times the images a second."""
    rows = values["rows"]
    parts = [
        *_beginning(values, network),
        f"## ImageNet-1k, {epochs} epochs",
        *_imagenet(rows, others, images_per_second, epochs),
        "## One epoch of a billion images",
        *_billion(values, kib),
        "## What is exchanged",
        *_exchanged(values),
        "## Where the meta step stops scaling",
        *_limits(values),
    ]
    return "\n\n".join(parts) + "\n"


def _beginning(values: Values, network: str) -> list[str]:
    given = values["given"]
    return [
        "# A plan past one machine",
        _text(
            "Written by `python benchmarks/plan.py --markdown docs/scaling.md`. No GPU has been measured. Of",
            "each number",
            "it is said what it is: **counted** by `python benchmarks/exchanges.py` (bytes, messages, operations and",
            "multiply-accumulates of the engine's own steps), **measured** (decoding: benchmarks/decoding.py on two",
            "processor cores), **assumed** (an argument of the script), or computed from those.",
        ),
        _text(
            f"Network: {network}. Assumed of a GPU of H100 class: {given['images_per_second']:,.0f} images/s of plain",
            f"training, {given['price_per_hour']:g} dollars an hour, {given['launch_microseconds']:g} µs to launch an",
            f"operation; {given['gpus_a_machine']} GPUs a machine; all-reduce at",
            f"{given['inside_gb_per_second']:g} GB/s",
            f"and {given['inside_microseconds']:g} µs x log2 N inside, {given['between_gb_per_second']:g}",
            "GB/s a GPU and",
            f"{given['between_microseconds']:g} µs x log2 N between machines; nothing overlaps an exchange.",
            "The meta step",
            f"runs in one of {given['meta_every_epochs']} epochs, with the {given['lookahead']} look-ahead and local",
            "statistics.",
        ),
        _text(
            "In plain steps, computed from counted multiply-accumulates: the student's step",
            f"{values['student_step']:.2f}, what a meta step adds {values['meta_step']:.2f}. (On a processor",
            "the meta step",
            "of ResNet18 was measured at 0.93 to 1.73 plain steps with this look-ahead, by precision: notes/speed.md.)",
        ),
    ]


def _imagenet(
    rows: Sequence[Values], others: Mapping[float, Values], images_per_second: float, epochs: int
) -> list[str]:
    last = rows[-1]
    return [
        _table(
            ("GPUs", "images of each", "batch", "plain, h", "MetaDistiller, h", "ratio", "dollars", "images/s"),
            (
                (
                    *(f"{r['gpus']}", f"{r['images']}", f"{r['batch']:,}", f"{r['plain_hours']:.2f}"),
                    *(f"{r['hours']:.2f}", f"{r['ratio']:.2f}", f"{r['dollars']:,.0f}"),
                    f"{r['images_per_second']:,.0f}",
                )
                for r in rows
            ),
        ),
        _text(
            f"The batch at {last['gpus']} GPUs is {last['batch']:,}, about the largest that published recipes",
            f"of {epochs}",
            "epochs reach at the accuracy of small ones; whether MetaDistiller's does has not been tried. Everything",
            "hangs on the first assumption:",
        ),
        _table(
            ("GPUs", *(f"hours at {factor * images_per_second:,.0f} images/s" for factor in others)),
            (
                (f"{r['gpus']}", *(f"{other['rows'][place]['hours']:.2f}" for other in others.values()))
                for place, r in enumerate(rows)
            ),
        ),
    ]


def _billion(values: Values, kib: int) -> list[str]:
    rows, decoded, price = values["rows"], values["decoded_per_core"], values["given"]["price_per_hour"]
    cores = rows[1]["images_per_second"] / decoded
    return [
        _table(
            ("GPUs", "hours", "dollars", "images/s", "GB/s of encoded images", "cores that decode"),
            (
                (
                    *(f"{r['gpus']}", f"{r['billion_hours']:,.1f}", f"{r['billion_hours'] * r['gpus'] * price:,.0f}"),
                    *(f"{r['images_per_second']:,.0f}", f"{r['images_per_second'] * kib * 1024 / 1e9:.2f}"),
                    f"{r['images_per_second'] / decoded:,.0f}",
                )
                for r in rows
            ),
        ),
        _text(
            f"Encoded images of {kib} KiB (assumed, ImageNet's); {decoded} images/s a core, measured at",
            "ImageNet's usual",
            "size. The meta step's held-out batch is decoded besides: in a meta epoch twice the images are",
            "read. A machine",
            f"of {rows[1]['gpus']} such GPUs needs about {cores:.0f} cores for decoding, and {2 * cores:.0f} in a meta",
            "epoch: smaller files (short side 256) or decoding on the GPU come before anything else.",
        ),
        _text(
            "What does not fit yet (computed from the code): every process holds the order of an epoch, 8 GB for a",
            "billion images, and the last orders that it was asked for, up to 16 of them (`permutation` in",
            "data/_order.py); and the name of every image, about 100 bytes each. Orders made piece by piece and names",
            "from the shards' indices",
            "come before such a set.",
        ),
    ]


def _exchanged(values: Values) -> list[str]:
    size, every = values["bytes"], values["given"]["meta_every_epochs"]

    def cells(row: Values) -> tuple[str, ...]:
        student, meta = row["times"]["student"], row["times"]["meta"]
        exchanged = student["exchange"] + meta["exchange"] / every
        total = exchanged + student["compute"] + meta["compute"] / every
        steps = (f"{part['compute']:.1f} + {part['exchange']:.1f}" for part in (student, meta))
        return f"{row['gpus']}", *steps, f"{100 * exchanged / total:.1f} %"

    return [
        _text(
            f"Counted, bytes of one rank's part in float32: the student's step {_mb(size['student'])} (plain training",
            f"{_mb(size['plain'])}; the rest are exits and what running statistics have moved by), a meta step",
            f"{_mb(size['meta'])} besides: the held-out gradient of the early stages and the generator's gradient.",
            "`lookahead=own` exchanges the look-ahead's gradient too. On the host each step asks once whether to stop,",
            "which waits for the slowest and is not in the times below.",
        ),
        _table(
            ("GPUs", "student's step: compute + exchange, ms", "a meta step adds, ms", "exchange, share of the time"),
            map(cells, values["rows"]),
        ),
    ]


def _limits(values: Values) -> list[str]:
    floors, layers, launch = values["floors"], values["layers"], values["given"]["launch_microseconds"]
    few, many = values["rows"][1], values["rows"][-1]
    operations = {part: floor * 1000 / launch for part, floor in floors.items()}
    images = {part: floors[part] / (few["times"][part]["compute"] / few["images"]) for part in floors}
    return [
        _text(
            f"**Launches, not bytes.** A student's step is {operations['student']:,.0f} operations and a meta step",
            f"{operations['meta']:,.0f} more (counted; eager), which takes {floors['student']:.1f} and",
            f"{floors['meta']:.1f} ms however few the images. Compute falls below that at {images['student']:.0f} and",
            f"{images['meta']:.0f} images a GPU: from there on more GPUs shorten nothing.",
        ),
        _text(
            f"**Synchronised statistics.** {layers['student']['messages']} messages in a student's step and",
            f"{layers['meta']['messages']} in a meta step (counted): on {many['gpus']} GPUs",
            f"{layers['student']['milliseconds_on_512']:.0f} and {layers['meta']['milliseconds_on_512']:.0f}",
            "ms, more than",
            "the compute. Moments are gathered from all, so what a rank receives grows with their number. Local",
            "statistics have none of this.",
        ),
        _text(
            "**The batch.** The generator's gradient is a mean over the batch: past the size at which more images no",
            "longer lower its variance, GPUs buy fewer steps and not better ones.",
        ),
        "What then helps, in this order:",
        "\n".join(
            (
                "1. `--method.meta_every_steps` above 1, and M: the meta step's share falls in proportion.",
                "2. `lookahead=shared` (the default): `own` is a forward and a backward pass and an exchange more.",
                "3. More images a GPU, as far as memory and accuracy go.",
                "4. CUDA graphs or compiled stages against launches; exchanges that overlap the backward pass, in",
                "   bfloat16. Neither is written: benchmarks/ranks.py has our one sum 5 to 9 % behind",
                "   DistributedDataParallel's overlap on two processors.",
            )
        ),
    ]


def _text(*words: str) -> str:
    return textwrap.fill(" ".join(words), 120, break_long_words=False, break_on_hyphens=False)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
