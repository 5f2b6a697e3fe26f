"""The page: tables and charts put into page.html.j2."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import _curves
from ._charts import Chart, bars, drawing, matrix
from ._exhibits import MOST_CLASSES, rows_of, stages_of
from ._run import Evaluation, Exhibit, Run
from ._tables import accuracies, cost, entropies, environment, headline, most_confused, times

MATRIX_CLASSES = 30  # more would not be legible


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
        panels = [_panel(exhibit, classes) for exhibit in run.exhibits if exhibit.targets or exhibit.exits]
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
        has_targets=bool(soft_targets) or any(exhibit.targets for exhibit in run.exhibits),
        entropies=entropies(run),
        confusion=confusion,
        num_classes=len(classes),
        selected=len(classes) > MOST_CLASSES + 1,
        confused=most_confused(run.evaluation),
        cost=cost(run),
        times=times(run),
        environment=environment(run),
    )


def _panel(exhibit: Exhibit, classes: Sequence[str]) -> Panel:
    rows = rows_of(exhibit, classes)
    charts = [
        bars(stage.distributions, rows.names, true=rows.true, title=stage.title, note=stage.note)
        for stage in stages_of(exhibit, rows)
    ]
    return Panel("data:image/png;base64," + exhibit.png, classes[exhibit.label], charts)


def _confusion(evaluation: Evaluation) -> Chart | None:
    if len(evaluation.classes) > MATRIX_CLASSES:
        return None
    return matrix(
        evaluation.confusion,
        evaluation.classes,
        title="Confusion matrix",
        note="Of the final output; the colour is the share of the true class.",
    )
