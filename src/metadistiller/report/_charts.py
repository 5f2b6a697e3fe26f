"""Drawing with matplotlib's objects, for pyplot keeps figures in a global; a chart is an SVG data: address.

Charts have no ground of their own: the page turns their colours where it is dark, so no colour may be near that of both
grounds. Titles and notes are HTML, where they wrap and can be selected.
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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

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
ROW_COLOURS = (FINAL_COLOUR, "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
TRUE_ROW = "#ececec"
PALE = 0.2  # opacity of a bar that is outlined

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
    """A named curve.

    Attributes:
        low, high: the ends of a band around it, one for each value; empty for none.
    """

    name: str
    series: Series
    colour: str = FINAL_COLOUR
    dashes: str = "solid"
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Probabilities of some classes.

    Attributes:
        name: what says it.
        shares: 0 to 1, one a class.
        colour: of the bars.
        outlined: whether they are pale with an edge; otherwise solid.
    """

    name: str
    shares: Sequence[float]
    colour: str
    outlined: bool = False


def exit_colour(k: int) -> str:
    """Of exit k, from 1, and of everything that belongs to it."""
    return EXIT_COLOURS[(k - 1) % len(EXIT_COLOURS)]


def row_style(place: int) -> tuple[str, str]:
    """Colour and dashes of one of several runs or methods, from 0."""
    colour = ROW_COLOURS[place % len(ROW_COLOURS)]
    return colour, ("solid", "dashed", "dotted", "dashdot")[place // len(ROW_COLOURS) % 4]


def short(name: str, length: int = NAME_LENGTH) -> str:
    """The name with its middle left out where it is long; the end often tells classes apart."""
    half = length // 2
    return name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}"


@contextmanager
def drawing() -> Iterator[None]:
    """Where charts are made: matplotlib as it comes, whatever the reader's own settings, and ours on top."""
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # Only its measuring misses the glyph: the text itself is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def svg(width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """The chart that `draw` makes, width x height inches."""
    figure = Figure(figsize=(width, height))
    draw(figure)
    settle(figure)
    buffer = io.BytesIO()
    # Figure.savefig would draw everything twice.
    FigureCanvasSVG(figure).print_svg(buffer, metadata=NO_METADATA)  # type: ignore[no-untyped-call]
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def settle(figure: Figure) -> None:
    """Find the places of everything, once, and round them.

    The solver's last bits depend on addresses in memory, and the names in an SVG file on these bits.
    """
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox.from_extents(*(round(end, 6) for end in axes.get_position(original=True).extents)))


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
            if curve.low:
                axes.fill_between(curve.series.epochs, curve.low, curve.high, color=curve.colour, alpha=PALE, lw=0)
        axes.set(xlabel="epochs done", ylabel=unit, yscale=scale)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylim(bottom=bottom)
        if scale == "log":
            # The usual labels, powers of ten, need the formulas that STYLE turns off.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=3 if max(len(curve.name) for curve in curves) < 16 else 2)

    ends = ", ".join(f"{curve.name} ends at {curve.series.values[-1]:.4g}" for curve in curves)
    return Chart(
        title=title,
        note=note,
        uri=svg(4.3, 3.0, draw),
        alt=f"Line chart over epochs: {title}. {ends}.",
    )


def bars(distributions: Sequence[Distribution], names: Sequence[str], *, true: int, title: str, note: str) -> Chart:
    """Distributions over some classes.

    Args:
        distributions: at least one.
        names: of classes, from top to bottom.
        true: which of them is right; its name is bold.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw_bars(axes, distributions, names, true=true, length=NAME_LENGTH)

    told = []
    for shown in distributions:
        top = max(range(len(names)), key=shown.shares.__getitem__)
        told.append(
            f"{shown.name}: most on {names[top]} ({shown.shares[top]:.2f}); "
            f"the true class {names[true]} has {shown.shares[true]:.2f}."
        )
    return Chart(
        title=title,
        note=note,
        uri=svg(1.9, 0.4 + 0.19 * len(names), draw),
        alt=f"Bar chart. {' '.join(told)}",
    )


def draw_bars(
    axes: Axes, distributions: Sequence[Distribution], names: Sequence[str], *, true: int, length: int
) -> None:
    """Horizontal bars, side by side in each class's row; the true class's row is shaded.

    Args:
        names: of classes, from top to bottom.
        true: which of them is right.
        length: characters of a name that are shown.
    """
    height = 0.8 / len(distributions)
    axes.axhspan(true - 0.5, true + 0.5, color=TRUE_ROW, zorder=0)
    for place, shown in enumerate(distributions):
        middles = [row - 0.4 + height * (place + 0.5) for row in range(len(names))]
        # An edge would show shares of nothing, too.
        face, edge = (to_rgba(shown.colour, PALE), 0.6) if shown.outlined else (shown.colour, 0.0)
        axes.barh(middles, shown.shares, height=height, color=face, edgecolor=shown.colour, linewidth=edge)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks(range(len(names)), [short(name, length) for name in names])
    axes.get_yticklabels()[true].set_fontweight("bold")
    axes.grid(visible=False, axis="y")
    axes.tick_params(labelsize=7, length=0)


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
        uri=svg(5.0, 4.6, draw),
        alt=f"{title}: {len(names)} by {len(names)} classes; the most confused pairs are in the table.",
    )
