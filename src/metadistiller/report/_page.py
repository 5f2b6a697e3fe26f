"""The page: tables and charts put into page.html.j2."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import _curves
from ._charts import FINAL_COLOUR, Chart, bars, drawing, exit_colour, matrix
from ._run import Evaluation, Exhibit, Run
from ._tables import accuracies, cost, entropy, environment, headline, most_confused

MATRIX_CLASSES = 30  # more would not be legible
EXHIBIT_CLASSES = 10  # beside the true one


@dataclass(frozen=True)
class Panel:
    """A picture and the distributions about it."""

    picture: str
    label: str
    charts: list[Chart]


def render(run: Run) -> str:
    """The whole page as HTML."""
    # Class names come from folder names, which anyone may have chosen: everything is escaped.
    pages = Environment(
        loader=PackageLoader("metadistiller", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result = run.result
    classes = run.evaluation.classes
    with drawing():
        training = _curves.training(run)
        panels = [_panel(exhibit, classes) for exhibit in run.exhibits if exhibit.targets]
        soft_targets = _curves.soft_targets(run)
        confusion = _confusion(run.evaluation)
    return pages.get_template("page.html.j2").render(
        title=f"{result.method} on {result.network}, {result.data}",
        headline=headline(run),
        settings=run.settings,
        count=run.evaluation.count,
        accuracies=accuracies(run),
        training=training,
        panels=panels,
        soft_targets=soft_targets,
        confusion=confusion,
        num_classes=len(classes),
        selected=len(classes) > EXHIBIT_CLASSES + 1,
        confused=most_confused(run.evaluation),
        cost=cost(run),
        environment=environment(run),
    )


def shown_classes(exhibit: Exhibit) -> list[int]:
    """All classes where they are few; of many, those with most mass in sum, and the true one."""
    indices = range(len(exhibit.final))
    if len(indices) <= EXHIBIT_CLASSES + 1:
        return list(indices)
    mass = [sum(column) for column in zip(exhibit.final, *exhibit.targets, strict=True)]
    largest = sorted(indices, key=lambda index: -mass[index])[:EXHIBIT_CLASSES]
    return largest if exhibit.label in largest else [*largest, exhibit.label]


def _panel(exhibit: Exhibit, classes: Sequence[str]) -> Panel:
    shown = shown_classes(exhibit)

    def chart(shares: tuple[float, ...], title: str, colour: str) -> Chart:
        return bars(
            [shares[index] for index in shown],
            [classes[index] for index in shown],
            true=shown.index(exhibit.label),
            colour=colour,
            title=title,
            note=f"entropy {entropy(shares):.2f} nats",
        )

    targets = [chart(shares, f"Soft target {k}", exit_colour(k)) for k, shares in enumerate(exhibit.targets, start=1)]
    final = chart(exhibit.final, "Final output", FINAL_COLOUR)
    return Panel("data:image/png;base64," + exhibit.png, classes[exhibit.label], [*targets, final])


def _confusion(evaluation: Evaluation) -> Chart | None:
    if len(evaluation.classes) > MATRIX_CLASSES:
        return None
    return matrix(
        evaluation.confusion,
        evaluation.classes,
        title="Confusion matrix",
        note="Of the final output; the colour is the share of the true class.",
    )
