"""Fig. 3 of the paper: test images with their soft targets, the exits' own outputs and the final output.

Source: sec. 4.6, which shows three images, and no output of the exits. Below the images stands what three images cannot
show: the mean entropies over the whole test set.
"""

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Patch

from metadistiller.config import require
from metadistiller.errors import ConfigError

from ._charts import FINAL_COLOUR, NO_METADATA, PALE, TRUE_ROW, draw_bars, drawing, exit_colour, settle, short
from ._exhibits import Rows, Stage, rows_of, stages_of
from ._reading import printable, read_entropy, read_exhibits
from ._run import Entropy, Exhibit

MOST_IMAGES = 20  # more would be a poster
LABEL_LENGTH = 20  # characters of a class name beside the bars
GREY = "#777777"

PICTURE, CHARACTER, PANEL, NARROWEST = 1.25, 0.065, 1.65, 5.0  # inches of width
HEAD, ABOVE, ROW = 0.35, 0.62, 0.17  # inches of height: the title; a panel's title and axis, each row of its bars
FOOT, LINE = 1.9, 0.3  # inches of height: the entropies as a chart, or in words


def check(path: Path, num_images: int) -> None:
    """Whether a figure of so many images can be this file. Raises: ConfigError."""
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(f"the figure's file is {str(path)!r}; take a name that ends in {', '.join(_WRITERS)}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file, such as {path / 'figure3.svg'}")
    require(num_images <= MOST_IMAGES, "number of images", num_images, f"a figure holds at most {MOST_IMAGES}")


def render(values: Mapping[str, Any], suffix: str) -> bytes:
    """The figure as a file's content; the same values give the same bytes.

    Args:
        values: what soft_targets.json holds, with method, network, data and epochs.
        suffix: .svg, .png or .pdf.
    """
    classes = [printable(str(name)) for name in values["classes"]]
    exhibits, entropy = read_exhibits(values, num_classes=len(classes)), read_entropy(values)
    assert entropy is not None
    epochs = "1 epoch" if values["epochs"] == 1 else f"{values['epochs']} epochs"
    title = printable(f"{values['method']} on {values['network']}, {values['data']}, after {epochs}")
    with drawing():
        return _WRITERS[suffix.lower()](_figure(exhibits, entropy, classes, title))


def _figure(exhibits: Sequence[Exhibit], entropy: Entropy, classes: Sequence[str], title: str) -> Figure:
    rows = [rows_of(exhibit, classes) for exhibit in exhibits]
    panels = [stages_of(exhibit, shown) for exhibit, shown in zip(exhibits, rows, strict=True)]
    columns = len(panels[0])
    heights = [ABOVE + ROW * len(shown.names) for shown in rows]
    longest = max(len(short(name, LABEL_LENGTH)) for shown in rows for name in shown.names)
    width = max(NARROWEST, PICTURE + CHARACTER * longest + PANEL * columns)
    titles = textwrap.wrap(title, round(9 * width))
    foot = FOOT if entropy.exits else LINE
    figure = Figure(figsize=(width, HEAD * len(titles) + sum(heights) + foot), dpi=200, facecolor="white")
    figure.suptitle("\n".join(titles), fontsize=10, fontweight="bold", x=0.01, ha="left")
    halves = figure.add_gridspec(2, 1, height_ratios=[sum(heights), foot])
    grid = halves[0].subgridspec(
        len(exhibits), columns + 1, height_ratios=heights, width_ratios=[0.8] + [1.0] * columns
    )
    for row, (exhibit, shown, stages) in enumerate(zip(exhibits, rows, panels, strict=True)):
        _picture(figure.add_subplot(grid[row, 0]), exhibit, classes[exhibit.label])
        for column, stage in enumerate(stages, start=1):
            _panel(figure.add_subplot(grid[row, column]), stage, shown, labelled=column == 1)
    _foot(figure.add_subplot(halves[1]), entropy, len(classes))
    settle(figure)
    return figure


def _picture(axes: Axes, exhibit: Exhibit, label: str) -> None:
    axes.imshow(imread(io.BytesIO(base64.b64decode(exhibit.png)), format="png"))
    axes.set_axis_off()
    name = "\n".join(textwrap.wrap(short(label, 36), 18)) or "(no name)"
    axes.set_title(f"test image {exhibit.index}\n{name}", fontsize=7.5)


def _panel(axes: Axes, stage: Stage, rows: Rows, *, labelled: bool) -> None:
    draw_bars(axes, stage.distributions, rows.names, true=rows.true, length=LABEL_LENGTH)
    if not labelled:
        axes.set_yticklabels([])
    axes.set_title(f"{stage.title}\n{stage.note}", fontsize=7.5)


def _foot(axes: Axes, entropy: Entropy, num_classes: int) -> None:
    """Mean entropies by stage, and what the colours mean."""
    title = f"Mean entropy over the {entropy.count:,} test images"
    if not entropy.exits:
        axes.set_axis_off()
        axes.text(0, 0.5, f"{title}: {entropy.final:.2f} nats", fontsize=8.5, va="center")
        return
    final = len(entropy.exits) + 1
    stages = range(1, final)
    # A little aside, for an exit that has learnt its target would hide it.
    for means, outlined, aside in ((entropy.targets, False, -0.05), (entropy.exits, True, 0.05)):
        places = [k + aside for k in stages[: len(means)]]
        axes.plot(places, means, color=GREY, linewidth=0.9, linestyle="dashed" if outlined else "solid")
        for k, (place, mean) in enumerate(zip(places, means, strict=True), start=1):
            face = "white" if outlined else exit_colour(k)
            axes.plot(place, mean, marker="o", markersize=6, color=exit_colour(k), markerfacecolor=face)
    axes.plot(final, entropy.final, marker="s", markersize=6, color=FINAL_COLOUR)
    limit = math.log(num_classes)
    axes.axhline(limit, color=GREY, linewidth=0.8, linestyle="dotted")
    axes.text(1.5, limit, f"all classes alike: {limit:.2f}", fontsize=7, color=GREY, va="bottom", ha="center")
    axes.set(xlim=(0.5, final + 0.5), ylim=(0, 1.2 * limit), ylabel="nats")
    axes.set_xticks([*stages, final], [*(f"stage {k}" for k in stages), "final output"])
    axes.set_title(title, fontsize=8.5)
    axes.tick_params(labelsize=7.5, length=0)
    axes.legend(handles=_key(entropy), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7.5)


def _key(entropy: Entropy) -> list[Patch]:
    """Solid, outlined, black and shaded, in words."""
    solid = [Patch(facecolor=GREY, edgecolor=GREY, label="T: soft target")] if entropy.targets else []
    return [
        *solid,
        Patch(facecolor=to_rgba(GREY, PALE), edgecolor=GREY, label="S: the exit's own output"),
        Patch(facecolor=FINAL_COLOUR, edgecolor=FINAL_COLOUR, label="final output"),
        Patch(facecolor=TRUE_ROW, edgecolor="none", label="true class"),
    ]


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=NO_METADATA)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Otherwise the bytes would say when it was drawn.
    FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


_WRITERS = {".svg": _svg, ".png": _png, ".pdf": _pdf}
