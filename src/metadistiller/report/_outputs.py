"""What the page says of probabilities and early exits: of outcomes.safetensors and early_exit.json."""

from typing import Any

from metadistiller.outcomes import chosen, output_names

from ._diagrams import reliability, tradeoff
from ._judging import Calibration, Exits, Point, Quality, scale
from ._reading import printable
from ._run import Run
from ._tables import told

TABLED = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # thresholds


def calibration(run: Run) -> dict[str, Any]:
    """Reliability of the final output, and numbers of all; `judged` is None in an older run."""
    judged = run.judged
    if judged is None:
        return {"judged": None}
    final = judged.final

    def note(found: Quality) -> str:
        return f"Expected calibration error {100 * found.bins.ece:.2f} %, negative log-likelihood {found.nll:.3f} nats."

    first, second = final.temperatures
    return {
        "judged": judged,
        "charts": [
            reliability(final.before.bins, title="Final output as it is", note=note(final.before)),
            reliability(
                final.after.bins,
                title="After temperature scaling",
                note=f"{note(final.after)} Temperatures {first:.2f} and {second:.2f}.",
            ),
        ],
        "rows": [calibration_row(each) for each in judged.outputs],
        "bins": _bins(final),
    }


def calibration_row(found: Calibration) -> list[str]:
    return [
        found.name,
        f"{100 * found.accuracy:.2f}",
        f"{100 * found.before.bins.ece:.2f}",
        f"{found.before.nll:.3f}",
        "{:.2f}, {:.2f}".format(*found.temperatures),
        f"{100 * found.after.bins.ece:.2f}",
        f"{found.after.nll:.3f}",
    ]


def _bins(final: Calibration) -> list[list[str]]:
    """The numbers of both diagrams."""

    def cells(bins: Any, place: int) -> list[str]:
        if not bins.counts[place]:
            return ["0", "–", "–"]
        return [f"{bins.counts[place]:,}", f"{bins.confidences[place]:.3f}", f"{bins.accuracies[place]:.3f}"]

    before, after = final.before.bins, final.after.bins
    number = len(before.counts)
    return [
        [f"{place / number:.2f} – {(place + 1) / number:.2f}", *cells(before, place), *cells(after, place)]
        for place in range(number)
        if before.counts[place] or after.counts[place]
    ]


def early_exits(run: Run) -> dict[str, Any]:
    """Accuracy against cost, and what was calibrated; `judged` is None in an older run."""
    view: dict[str, Any] = {"judged": run.judged, "chart": None, "calibrated": None}
    if run.judged and (exits := run.judged.exits):
        view["chart"] = tradeoff(
            exits,
            measured=_measured(run.early_exit, exits.plain),
            title="Accuracy against cost",
            note="On the test set, after temperature scaling; at the left all leave at once."
            + (" Star: what it lost where it was measured, taken off the plain network." if run.early_exit else ""),
        )
        view["rows"] = _tradeoff_rows(exits)
        view["num_outputs"] = len(exits.plain.left)
    if run.early_exit:
        view["calibrated"] = _calibrated(run.early_exit)
    return view


def _measured(early_exit: chosen.EarlyExit | None, plain: Point) -> Point | None:
    """What was calibrated, as far from the plain network as it was found to be: it was measured on other images."""
    if early_exit is None:
        return None
    row = early_exit.chosen
    return Point(threshold=None, accuracy=plain.accuracy - (row.loss or 0.0), macs=row.macs, left=row.left)


def _tradeoff_rows(exits: Exits) -> list[list[str]]:
    factor, letter = scale(exits.plain.macs)

    def row(name: str, point: Point) -> list[str]:
        count = sum(point.left)
        return [
            name,
            f"{point.accuracy:.2f}",
            f"{point.macs / factor:.3g} {letter}",
            f"{100 * (1 - point.macs / exits.plain.macs):.1f}",
            *(f"{100 * left / count:.1f}" for left in point.left),
        ]

    thresholds = [row(f"threshold {each.threshold:g}", each) for each in exits.common if each.threshold in TABLED]
    singles = [row(f"{name} alone", point) for name, point in exits.named_singles]
    return [row("plain network", exits.plain), *thresholds, *singles]


def _calibrated(found: chosen.EarlyExit) -> dict[str, Any]:
    """What early_exit.json says, in words."""
    batches = sorted({each.batch for row in found.measured for each in row.latency})
    rows = []
    for row in found.measured:
        times = {each.batch: f"{each.ms:.2f} ({each.ratio:.2f} ×)" for each in row.latency}
        lost = "–" if row.loss is None else f"{row.loss:+.2f}"
        if row.interval:
            lost += " ({:+.2f} to {:+.2f})".format(*row.interval)
        rows.append(
            [
                printable(row.name),
                f"{row.accuracy:.2f}",
                lost,
                f"{row.macs:,.0f}",
                f"{row.saved:.1f}",
                *(times.get(batch, "–") for batch in batches),
            ]
        )
    names = output_names(len(found.policy.temperatures))
    thresholds = ["not used" if each is None else f"{each:.3f}" for each in found.policy.thresholds]
    temperatures = [f"{each:.2f}" for each in found.policy.temperatures]
    return {
        "target": str(found.target),
        "held_out": printable(found.held_out.told),
        "thresholds": list(zip(names, [*thresholds, "–"], temperatures, strict=True)),
        "batches": batches,
        "rows": rows,
        "machine": [(printable(str(key)), told(value)) for key, value in (found.machine or {}).items()],
    }
