"""Charts that are not over epochs: reliability, accuracy against cost, many classes at once, one value a seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from metadistiller.outcomes.calibration import Reliability

from ._charts import ENSEMBLE_COLOUR, EXIT_COLOURS, FINAL_COLOUR, Chart, exit_colour, short, svg
from ._judging import Exits, Point, scale

GREY = "#777777"
NAME_LENGTH = 24


def reliability(bins: Reliability, *, title: str, note: str) -> Chart:
    """How often answers are right, by how certain they are, and how many are that certain."""
    number, count = len(bins.counts), sum(bins.counts)
    used = [place for place in range(number) if bins.counts[place]]
    middles = [(place + 0.5) / number for place in used]

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        shares, certain = ([values[place] for place in used] for values in (bins.accuracies, bins.confidences))
        above.bar(middles, shares, width=0.9 / number, color=EXIT_COLOURS[0], label="right")
        above.plot((0, 1), (0, 1), color=GREY, linestyle="dashed", linewidth=1, label="as certain as right")
        for middle, share, wanted in zip(middles, shares, certain, strict=True):
            above.plot((middle, middle), (share, wanted), color=ENSEMBLE_COLOUR, linewidth=1.6)
        above.plot([], [], color=ENSEMBLE_COLOUR, linewidth=1.6, label="gap")
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        figure.legend(loc="outside upper left", ncols=3)
        below.bar(middles, [100 * bins.counts[place] / count for place in used], width=0.9 / number, color=GREY)
        below.set(xlabel="confidence of the answer", ylabel="images, %")

    gap = sum(bins.counts[place] * (bins.confidences[place] - bins.accuracies[place]) for place in used) / count
    how = f"{'over' if gap > 0 else 'under'}-confident by {100 * abs(gap):.1f} points on average"
    return Chart(
        title=title,
        note=note,
        uri=svg(4.3, 3.7, draw),
        alt=f"Reliability diagram, {title.lower()}: {how}; expected calibration error {100 * bins.ece:.2f} %.",
    )


def tradeoff(exits: Exits, *, measured: Point | None, title: str, note: str) -> Chart:
    """Accuracy against multiply-accumulates: thresholds, single exits, the plain network, and what was calibrated."""
    factor, letter = scale(exits.plain.macs)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _curve(axes, exits, factor, EXIT_COLOURS[0], "solid", "one threshold for all exits")
        for k, (name, point) in enumerate(exits.named_singles, start=1):
            axes.plot(
                point.macs / factor, point.accuracy, "D", color=exit_colour(k), markersize=6, label=f"{name} alone"
            )
        _plain(axes, exits, factor, FINAL_COLOUR, "plain network")
        if measured:
            axes.plot(
                measured.macs / factor, measured.accuracy, "*", color=ENSEMBLE_COLOUR, markersize=11, label="calibrated"
            )
        axes.set(xlabel=f"mean {letter}MACs of an image", ylabel="top-1 in %")
        axes.set_xlim(left=0)
        figure.legend(loc="outside upper left", ncols=2)

    told = [f"{name} alone {_said(point, factor, letter)}" for name, point in exits.named_singles]
    told.append(f"the plain network {_said(exits.plain, factor, letter)}")
    if measured:
        told.append(f"calibrated {_said(measured, factor, letter)}")
    return Chart(
        title=title,
        note=note,
        uri=svg(5.2, 3.8, draw),
        alt=f"Accuracy against cost: {'; '.join(told)}. The table has the thresholds.",
    )


def tradeoffs(found: Mapping[str, Exits], styles: Mapping[str, tuple[str, str]], *, title: str, note: str) -> Chart:
    """The thresholds' curves of several runs, one beside the other."""
    factor, letter = scale(max(exits.plain.macs for exits in found.values()))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, exits in found.items():
            colour, dashes = styles[name]
            _curve(axes, exits, factor, colour, dashes, short(name, NAME_LENGTH))
            _plain(axes, exits, factor, colour, None)
        axes.set(xlabel=f"mean {letter}MACs of an image", ylabel="top-1 in %")
        axes.set_xlim(left=0)
        figure.legend(loc="outside upper left", ncols=2)

    told = "; ".join(f"{name}: plain network {_said(exits.plain, factor, letter)}" for name, exits in found.items())
    return Chart(title=title, note=note, uri=svg(4.3, 3.4, draw), alt=f"Accuracy against cost. {told}.")


def _curve(axes: Axes, exits: Exits, factor: float, colour: str, dashes: str, name: str) -> None:
    macs = [point.macs / factor for point in exits.common]
    shares = [point.accuracy for point in exits.common]
    axes.plot(macs, shares, color=colour, linestyle=dashes, linewidth=1.4, marker="o", markersize=3, label=name)


def _plain(axes: Axes, exits: Exits, factor: float, colour: str, name: str | None) -> None:
    point = exits.plain
    axes.plot(point.macs / factor, point.accuracy, "s", color=colour, markersize=6, label=name)
    axes.axhline(point.accuracy, color=colour, linewidth=0.8, linestyle="dotted")


def _said(point: Point, factor: float, letter: str) -> str:
    return f"{point.accuracy:.2f} % at {point.macs / factor:.3g} {letter}MACs"


def chain(confusion: Sequence[Sequence[int]]) -> list[int]:
    """The classes in a row in which each stands next to the one that it is most confused with, of those still left.

    It begins with one of the two that are confused most.
    """
    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    near = shares + shares.T
    np.fill_diagonal(near, -1)
    order = [int(near.max(1).argmax())]
    left = np.ones(len(near), dtype=bool)
    left[order[0]] = False
    while left.any():
        order.append(int(np.where(left, near[order[-1]], -np.inf).argmax()))
        left[order[-1]] = False
    return order


def heat_map(counts: Sequence[Sequence[int]], *, title: str, note: str) -> Chart:
    """A confusion matrix without names, each row coloured by its shares, rows and columns in the order of `chain`."""
    order = chain(counts)
    rows = np.array(counts, dtype=float)[np.ix_(order, order)]
    rows /= np.maximum(1, rows.sum(1, keepdims=True))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        # The root keeps the few wrong ones visible beside the diagonal.
        image = axes.imshow(rows, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="none")
        axes.set(xticks=[], yticks=[], xlabel="predicted class", ylabel="true class")
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, ticks=[0, 0.1, 0.25, 0.5, 1], shrink=0.8, pad=0.02)
        bar.ax.set_yticklabels(["0 %", "10 %", "25 %", "50 %", "100 %"], fontsize=7)
        bar.ax.grid(visible=False)

    return Chart(
        title=title,
        note=note,
        uri=svg(5.0, 4.4, draw),
        alt=f"{title}: {len(order)} by {len(order)} classes, without names; the most confused pairs are in the table.",
    )


def dots(
    values: Mapping[str, Sequence[float]],
    styles: Mapping[str, tuple[str, str]],
    *,
    title: str,
    unit: str,
    note: str,
) -> Chart:
    """A row for each name, with a point for each value and a bar at their mean.

    Args:
        values: by name, from top to bottom; at least one each.
        styles: colour and dashes, by name.
    """
    means = {name: sum(found) / len(found) for name, found in values.items()}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (name, found) in enumerate(values.items()):
            colour, _ = styles[name]
            axes.plot(found, [row] * len(found), "o", color=colour, markersize=6, alpha=0.6, markeredgewidth=0)
            axes.plot([means[name]] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
        axes.set_yticks(range(len(values)), [short(name, NAME_LENGTH) for name in values])
        axes.set(xlabel=unit, ylim=(len(values) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)

    told = "; ".join(f"{name} {means[name]:.2f} (mean of {len(found)})" for name, found in values.items())
    return Chart(
        title=title, note=note, uri=svg(5.2, 0.8 + 0.32 * len(values), draw), alt=f"Point chart: {title}. {told}."
    )
