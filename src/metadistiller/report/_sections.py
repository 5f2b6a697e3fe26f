"""The page of one run, section by section: what each template of templates/ gets to show."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metadistiller.outcomes.mistakes import Answer, Mistake

from . import _curves
from ._charts import Chart, bars, drawing, matrix
from ._diagrams import heat_map
from ._exhibits import MOST_CLASSES, rows_of, stages_of
from ._outputs import calibration, early_exits
from ._reading import printable
from ._run import Evaluation, Exhibit, Run
from ._tables import accuracies, accuracy, by_class, cost, entropies, environment, most_confused, times, told

NAMED_CLASSES = 30  # of more, names beside a matrix would not be legible
FEW_CLASSES = 20  # of more, the table of classes shows both ends
WORST, BEST = 10, 5  # classes at both ends


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own.

    Attributes:
        title: the heading, and the entry in the contents.
        template: below templates/.
        view: what the template knows as `view`.
    """

    title: str
    template: str
    view: Mapping[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower())


@dataclass(frozen=True)
class Panel:
    """A picture and the distributions about it."""

    picture: str
    label: str
    charts: list[Chart]


def title_of(run: Run) -> str:
    return f"{run.result.method} on {run.result.network}, {run.result.data}"


def sections_of(run: Run) -> list[Section]:
    """In the order of the page."""
    has_targets = any(exhibit.targets for exhibit in run.exhibits)
    with drawing():
        training, soft_targets = _curves.training(run), _curves.soft_targets(run)
        panels = [_panel(each, run.evaluation.classes) for each in run.exhibits if each.targets or each.exits]
        found = [
            Section("Run", "run.html.j2", begun(run)),
            Section("Accuracy", "accuracy.html.j2", {"rows": accuracies(run), "count": run.evaluation.count}),
            Section("Training", "charts.html.j2", {"charts": training}) if training else None,
            Section(
                "Soft targets" if has_targets or soft_targets else "Exits",
                "soft_targets.html.j2",
                {
                    "panels": panels,
                    "charts": soft_targets,
                    "has_targets": has_targets or bool(soft_targets),
                    "entropies": entropies(run),
                    "num_classes": len(run.evaluation.classes),
                    "selected": len(run.evaluation.classes) > MOST_CLASSES + 1,
                },
            )
            if panels or soft_targets
            else None,
            Section("Confusion", "confusion.html.j2", confusion(run.evaluation)),
            Section("Mistakes", "mistakes.html.j2", mistakes(run)),
            Section("Calibration", "calibration.html.j2", calibration(run)),
            Section("Early exits", "early_exits.html.j2", early_exits(run)) if run.result.exits else None,
            Section("Cost", "cost.html.j2", {"rows": cost(run), "times": times(run)}),
            Section("Environment", "environment.html.j2", {"rows": environment(run)}),
        ]
    return [section for section in found if section]


def begun(run: Run) -> dict[str, Any]:
    """What was trained and how."""
    result = run.result
    facts = [("Method", result.method), ("Network", result.network), ("Data", result.data)]
    facts += [("Seed", str(result.seed))] if result.seed is not None else []
    facts += [
        ("Epochs", f"{result.epochs:,}"),
        ("Test images, classes", f"{run.evaluation.count:,}, {len(run.evaluation.classes):,}"),
    ]
    return {
        "facts": facts,
        "sittings": [(_place(number, each.epoch, each.step), each.command) for number, each in enumerate(run.sittings)],
        "changed": None
        if run.changed is None
        else [(printable(str(key)), told(value)) for key, value in run.changed.items()],
        "settings": run.settings,
    }


def _place(number: int, epoch: int, step: int) -> str:
    if number == 0 and not (epoch or step):
        return "Begun with"
    after = f"{epoch} epochs" if epoch != 1 else "1 epoch"
    return f"Taken up after {after}" + (f" and {step} steps" if step else "")


def _panel(exhibit: Exhibit, classes: Sequence[str]) -> Panel:
    rows = rows_of(exhibit, classes)
    charts = [
        bars(stage.distributions, rows.names, true=rows.true, title=stage.title, note=stage.note)
        for stage in stages_of(exhibit, rows)
    ]
    return Panel(picture_of(exhibit.png), classes[exhibit.label], charts)


def picture_of(png: str) -> str:
    return f"data:image/png;base64,{png}"


def confusion(evaluation: Evaluation) -> dict[str, Any]:
    """The matrix, the pairs, and the classes one by one."""
    classes, note = evaluation.classes, "Of the final output; the colour is the share of the true class"
    if len(classes) <= NAMED_CLASSES:
        chart = matrix(evaluation.confusion, classes, title="Confusion matrix", note=f"{note}.")
    else:
        chart = heat_map(
            evaluation.confusion,
            title="Confusion matrix",
            note=f"{note}. Each class stands next to the one that it is most confused with, as far as a row allows.",
        )
    every = by_class(evaluation)
    many = len(every) > FEW_CLASSES
    return {
        "chart": chart,
        "pairs": most_confused(evaluation),
        "worst": every[:WORST] if many else every,
        "best": every[: -BEST - 1 : -1] if many else [],
        "every": every if many else [],
    }


def mistakes(run: Run) -> dict[str, Any]:
    """The gallery; `found` is None in an older run."""
    found, classes = run.mistakes, run.evaluation.classes
    if found is None:
        return {"found": None}
    return {
        "found": found,
        "total": run.evaluation.count,
        "share": accuracy(found.wrong, found.count).percent,
        "images": [
            {
                "picture": picture_of(each.png),
                "true": classes[each.label],
                "answer": classes[each.final.answer],
                "confidence": f"{each.final.confidence:.3f}",
                "label_share": f"{each.label_share:.3f}",
                "exits": [
                    (name, classes[said.answer], f"{said.confidence:.2f}", said.answer == each.label)
                    for name, said in each.named_exits
                ],
                "alt": _described(each, classes),
                "index": each.index,
            }
            for each in found.images
        ],
    }


def _described(mistake: Mistake, classes: Sequence[str]) -> str:
    def said(name: str, answer: Answer) -> str:
        return f"{name} says {classes[answer.answer]} ({answer.confidence:.2f})"

    exits = [said(name, answer) for name, answer in mistake.named_exits]
    return (
        f"Test image {mistake.index} of the class {classes[mistake.label]}: "
        f"{', '.join([said('the final output', mistake.final), *exits])}."
    )
