"""Drawing with matplotlib's objects, for pyplot keeps figures in a global; a chart is an SVG data: address.

Charts stay on white in both colour schemes; titles and notes are HTML, where they wrap and can be selected.
"""

import base64
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from ._run import Series

STYLE = {
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.facecolor": "none",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "text.parse_math": False,  # a class name may hold dollar signs
    "svg.fonttype": "none",  # the reader's fonts know scripts that matplotlib's own does not
    "svg.hashsalt": "metadistiller",  # otherwise ids, and with them the bytes, differ every time
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

# Okabe and Ito's colours, which most colour-blind readers tell apart.
EXIT_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FINAL_COLOUR, ENSEMBLE_COLOUR = "#222222", "#d55e00"

MARKED_POINTS = 25  # a curve of at most so many points shows each
NAME_LENGTH = 14  # characters of a class name in a chart
CELL_TEXT_CLASSES = 12  # up to so many classes the cells of a matrix hold their counts


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An image for the page.

    Attributes:
        title: stands above it.
        note: one sentence below the title, or nothing.
        uri: the SVG as a data: address.
        alt: what it says, for who cannot see it.
    """

    title: str
    note: str
    uri: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named curve."""

    name: str
    series: Series
    colour: str = FINAL_COLOUR
    dashes: str = "solid"


def exit_colour(k: int) -> str:
    """Of exit k, from 1, and of everything that belongs to it."""
    return EXIT_COLOURS[(k - 1) % len(EXIT_COLOURS)]


def short(name: str) -> str:
    """The name with its middle left out where it is long; the end often tells classes apart."""
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


@contextmanager
def drawing() -> Iterator[None]:
    """Where charts are made: matplotlib as it comes, whatever the reader's own settings, and ours on top."""
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # Only its measuring misses the glyph: the text itself is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def _svg(width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """The chart that `draw` makes, width x height inches."""
    figure = Figure(figsize=(width, height))
    canvas = FigureCanvasSVG(figure)
    draw(figure)
    buffer = io.BytesIO()
    # Figure.savefig would draw everything twice.
    canvas.print_svg(buffer, metadata=NO_METADATA)  # type: ignore[no-untyped-call]
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(
    curves: Sequence[Line],
    *,
    title: str,
    unit: str,
    note: str = "",
    scale: Literal["linear", "log"] = "linear",
    bottom: float | None = None,
) -> Chart:
    """Curves over epochs.

    Args:
        curves: at least one; several get a legend.
        title: above the chart.
        unit: of the vertical axis.
        note: below the title.
        scale: of the vertical axis.
        bottom: where the vertical axis begins; as the values demand where it is None.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for curve in curves:
            axes.plot(
                curve.series.epochs,
                curve.series.values,
                label=curve.name,
                color=curve.colour,
                linestyle=curve.dashes,
                linewidth=1.4,
                marker="o" if len(curve.series.epochs) <= MARKED_POINTS else "",
                markersize=3,
            )
        axes.set(xlabel="epochs done", ylabel=unit, yscale=scale)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylim(bottom=bottom)
        if scale == "log":
            # The usual labels, powers of ten, need the formulas that STYLE turns off.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=3)

    ends = ", ".join(f"{curve.name} ends at {curve.series.values[-1]:.4g}" for curve in curves)
    return Chart(
        title=title,
        note=note,
        uri=_svg(4.3, 3.0, draw),
        alt=f"Line chart over epochs: {title}. {ends}.",
    )


def bars(shares: Sequence[float], names: Sequence[str], *, true: int, colour: str, title: str, note: str) -> Chart:
    """A distribution over some classes.

    Args:
        shares: probabilities, 0 to 1, one a name.
        names: of classes, from top to bottom.
        true: which of them is right; its name is bold.
        colour: of the bars; those of the other classes are paler.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(names))
        drawn = axes.barh(rows, shares, color=colour, height=0.75)
        for row, bar in enumerate(drawn):
            bar.set_alpha(1.0 if row == true else 0.45)
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks(rows, [short(name) for name in names])
        axes.get_yticklabels()[true].set_fontweight("bold")
        axes.grid(visible=False, axis="y")
        axes.tick_params(labelsize=7, length=0)

    top = max(range(len(names)), key=shares.__getitem__)
    return Chart(
        title=title,
        note=note,
        uri=_svg(1.9, 0.4 + 0.17 * len(names), draw),
        alt=f"Bar chart: {title}. Most on {names[top]} ({shares[top]:.2f}); "
        f"the true class {names[true]} has {shares[true]:.2f}.",
    )


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str, note: str) -> Chart:
    """A confusion matrix, each row coloured by its shares."""
    rows = [[cell / max(1, sum(row)) for cell in row] for row in counts]
    # The root keeps the few wrong ones visible beside the diagonal.
    norm = PowerNorm(0.5, vmin=0, vmax=1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        image = axes.imshow(rows, cmap="Blues", norm=norm, interpolation="none")
        ticks = range(len(names))
        axes.set_xticks(ticks, [short(name) for name in names], rotation=90)
        axes.set_yticks(ticks, [short(name) for name in names])
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(labelsize=7 if len(names) <= CELL_TEXT_CLASSES else 5.5, length=0)
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, ticks=[0, 0.1, 0.25, 0.5, 1], shrink=0.8, pad=0.02)
        bar.ax.set_yticklabels(["0 %", "10 %", "25 %", "50 %", "100 %"], fontsize=7)
        bar.ax.grid(visible=False)
        if len(names) > CELL_TEXT_CLASSES:
            return
        for row, column in ((row, column) for row in ticks for column in ticks if counts[row][column]):
            colour = "white" if math.sqrt(rows[row][column]) > 0.6 else "#222222"
            text = str(counts[row][column])
            axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=6.5)

    return Chart(
        title=title,
        note=note,
        uri=_svg(5.0, 4.6, draw),
        alt=f"{title}: {len(names)} by {len(names)} classes; the most confused pairs are in the table.",
    )
