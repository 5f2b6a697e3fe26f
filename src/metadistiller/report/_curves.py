"""Which columns of a run go on which chart. A chart without columns is left out."""

import re
from collections.abc import Iterable
from dataclasses import replace

from ._charts import ENSEMBLE_COLOUR, EXIT_COLOURS, Chart, Line, exit_colour, lines
from ._run import Run, Series

PART = re.compile(r"(?:exit_(?P<k>\d+)|final)_(?P<part>\w+)")
EXIT = re.compile(r"exit_(\d+)")
RATE = re.compile(r"(\w+)_lr")
TARGET = re.compile(r"target_(\d+)_(entropy|confidence|accuracy|gain|alignment)")
LABEL = re.compile(r"label_(\d+)_(gain|alignment)")
PLAIN_COLUMNS = ("lr", "loss", "test_loss", "final", "ensemble", "heldout_loss", "generator_gradient_norm")

# The parts of the loss as people call them; a part that is not here is shown under its own name.
PART_TITLES = {
    "hard": (
        "Loss against the labels",
        "Cross-entropy of each output; dashed: the final one on the test set.",
    ),
    "soft": ("Loss against the soft targets", "How far each exit is from its soft target."),
}


def _by_exit(found: Iterable[tuple[int, Series]], name: str) -> list[Line]:
    return [
        Line(name=f"{name}{k}", series=series, colour=exit_colour(k))
        for k, series in sorted(found, key=lambda item: item[0])
    ]


def training(run: Run) -> list[Chart]:
    """Losses, accuracies, learning rate and speed."""
    return [*_losses(run), *_accuracy(run), *_further(run), *_learning_rates(run), *_speed(run)]


def _losses(run: Run) -> list[Chart]:
    charts = []
    if "loss" in run.series:
        total = Line(name="loss", series=run.series["loss"])
        charts.append(
            lines([total], title="Training loss", unit="loss", note="All that the student minimises, summed.")
        )
    matches = [match for match in map(PART.fullmatch, run.series) if match]
    for part in dict.fromkeys(match["part"] for match in matches):
        same = [match for match in matches if match["part"] == part and match["k"]]
        exits = [(int(match["k"]), run.series[match[0]]) for match in same]
        curves = _by_exit(exits, "exit ")
        if f"final_{part}" in run.series:
            curves.append(Line(name="final", series=run.series[f"final_{part}"]))
        if part == "hard" and "test_loss" in run.series:
            curves.append(Line(name="final, test", series=run.series["test_loss"], dashes="dashed"))
        title, note = PART_TITLES.get(part, (f"Part of the loss: {part.replace('_', ' ')}", ""))
        charts.append(lines(curves, title=title, unit="nats" if part in PART_TITLES else part, note=note))
    return charts


def _accuracy(run: Run) -> list[Chart]:
    exits = [(int(match[1]), run.series[match[0]]) for match in map(EXIT.fullmatch, run.series) if match]
    curves = _by_exit(exits, "exit ")
    if "final" in run.series:
        curves.append(Line(name="final", series=run.series["final"]))
    if exits and "ensemble" in run.series:
        curves.append(Line(name="ensemble", series=run.series["ensemble"], colour=ENSEMBLE_COLOUR, dashes="dashed"))
    return [lines(curves, title="Test accuracy", unit="top-1 in %")] if curves else []


def _further(run: Run) -> list[Chart]:
    """Means that a method records and that no other chart shows."""
    return [
        lines([Line(name=name, series=series)], title=_further_title(name), unit="training mean")
        for name, series in run.series.items()
        if name not in PLAIN_COLUMNS
        and not any(pattern.fullmatch(name) for pattern in (PART, EXIT, TARGET, LABEL, RATE))
    ]


def _further_title(column: str) -> str:
    player, norm, rest = column.partition("_gradient_norm")
    if norm and not rest:
        return f"Norm of the gradient of the {player.replace('_', ' ')}"
    return column.replace("_", " ").capitalize()


def _learning_rates(run: Run) -> list[Chart]:
    """A chart for each player: their rates are of different size."""
    others = {match[1]: run.series[match[0]] for match in map(RATE.fullmatch, run.series) if match}
    rates = ({"student": run.series["lr"]} if "lr" in run.series else {}) | others
    return [_learning_rate(player, series, run.schedule, alone=len(rates) == 1) for player, series in rates.items()]


def _learning_rate(player: str, series: Series, schedule: str, *, alone: bool) -> Chart:
    # Steps divide by the same number each time: on a log axis they are of equal height.
    stepped = schedule == "step" and min(series.values) > 0
    return lines(
        [Line(name="learning rate", series=series)],
        title="Learning rate" if alone else f"Learning rate of the {player.replace('_', ' ')}",
        unit="learning rate",
        note="At the first step of each epoch.",
        scale="log" if stepped and min(series.values) < max(series.values) else "linear",
    )


def _speed(run: Run) -> list[Chart]:
    # An epoch that was resumed for its evaluation alone has no speed.
    measured = [epoch for epoch in run.epochs if epoch.images_per_second > 0]
    if not measured:
        return []
    series = Series(
        epochs=tuple(epoch.epoch for epoch in measured), values=tuple(epoch.images_per_second for epoch in measured)
    )
    return [
        lines(
            [Line(name="images per second", series=series)],
            title="Speed of training",
            unit="images per second",
            bottom=0,
            note="Epochs that also train the generator are slower."
            if len({epoch.objectives for epoch in run.epochs}) > 1
            else "",
        )
    ]


def soft_targets(run: Run) -> list[Chart]:
    """How the soft targets and the generator fare; empty for a method without."""
    shown = {
        "entropy": ("Entropy of the soft targets", "nats", "The higher, the softer."),
        "confidence": ("Confidence of the soft targets", "mean largest share", "1 is a one-hot target."),
        "accuracy": ("Accuracy of the soft targets", "%", "How often the largest share is on the label."),
        "gain": (
            "Gain of the soft targets",
            "nats",
            "What the held-out loss falls by for them, which the generator raises; dashed: for labels instead.",
        ),
        "alignment": (
            "Alignment of the soft targets",
            "correlation",
            "With what the held-out loss asks for; dashed: of labels instead.",
        ),
    }
    matches = [match for match in map(TARGET.fullmatch, run.series) if match]
    charts = []
    for quantity, (title, unit, note) in shown.items():
        found = [(int(match[1]), run.series[match[0]]) for match in matches if match[2] == quantity]
        curves = _by_exit(found, "target ")
        labels = [
            (int(match[1]), run.series[match[0]])
            for match in map(LABEL.fullmatch, run.series)
            if match and match[2] == quantity
        ]
        curves += [replace(curve, dashes="dashed") for curve in _by_exit(labels, "label, exit ")]
        if curves:
            charts.append(lines(curves, title=title, unit=unit, note=note))
    generator = {
        "heldout_loss": ("Held-out loss", "nats", "What the generator minimises through the student's step."),
        "generator_gradient_norm": (
            "Norm of the generator's gradient",
            "norm",
            "How strongly it is pulled: by the meta-gradient, or with targets labels by its own loss.",
        ),
    }
    for column, (title, unit, note) in generator.items():
        if column in run.series:
            curve = Line(name=title.lower(), series=run.series[column], colour=EXIT_COLOURS[0])
            charts.append(lines([curve], title=title, unit=unit, note=note))
    return charts
