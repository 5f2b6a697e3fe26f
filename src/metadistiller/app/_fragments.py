"""What the page shows, as HTML. Names of classes and folders come from anywhere: everything is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..outcomes import output_names
from ..outcomes.policy import Policy, Simulated
from ._shown import Answer, Output, Shown

# Okabe and Ito's colours, which most colour-blind readers tell apart; those of the report.
EXIT_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FINAL_COLOUR = "#5b6470"
_OWN, _TAUGHT = 4, 2  # classes that are shown for what an output says, and for what it was told
_WIDTH, _HEIGHT = 420, 240  # of the chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 14, 40  # its margins


def printable(text: str) -> str:
    """With U+FFFD for every character that cannot be printed, such as one that turns the direction of what follows."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


_PAGES = Environment(
    loader=PackageLoader("metadistiller", "app"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
)


def _render(fragment: str, **given: Any) -> str:
    html: str = getattr(_PAGES.get_template("fragments.html.j2").make_module(), fragment)(**given)
    return str(html)


def colour(place: int, num_outputs: int) -> str:
    """Of an output, from 0, wherever it is shown."""
    return FINAL_COLOUR if place == num_outputs - 1 else EXIT_COLOURS[place % len(EXIT_COLOURS)]


def head(runs: Sequence[Shown]) -> str:
    """What is shown, and what to know of it."""
    return _render("head", runs=runs)


def hint() -> str:
    """Where the answer will stand."""
    return _render("hint")


def problem(text: str) -> str:
    """A message in place of an answer."""
    return _render("problem", text=text)


def _classes(output: Output) -> list[int]:
    """Those worth showing, likeliest first."""
    shares = output.shares
    ranked = sorted(range(len(shares)), key=lambda c: -shares[c])[:_OWN]
    if output.target is not None:
        target = output.target
        ranked += sorted(range(len(shares)), key=lambda c: -target[c])[:_TAUGHT]
    return sorted(set(ranked), key=lambda c: -shares[c])


def answers(runs: Sequence[Shown], found: Sequence[Answer], policies: Sequence[Policy]) -> str:
    """What each run says of an image, and which output would have answered."""
    panels = []
    for run, answer, policy in zip(runs, found, policies, strict=True):
        decision = run.decide(answer, policy)
        cards = []
        for place, output in enumerate(answer.outputs):
            early = place < run.num_exits
            if early and policy.thresholds[place] is None:
                state = "not used"
            elif place == decision.place:
                state = "answers"
            else:
                state = "not sure enough" if place < decision.place else "not reached"
            cards.append(
                {
                    "output": output,
                    "state": state,
                    "threshold": policy.thresholds[place] if early else None,
                    "temperature": policy.temperatures[place],
                    "colour": colour(place, len(answer.outputs)),
                    "rows": [
                        (run.classes[c], output.shares[c], None if output.target is None else output.target[c], c)
                        for c in _classes(output)
                    ],
                }
            )
        panels.append({"run": run, "answer": answer, "decision": decision, "cards": cards})
    return _render("answers", panels=panels)


@dataclass(frozen=True)
class _Chart:
    """Accuracy over cost, in the chart's own pixels.

    Attributes:
        line: of the curve.
        here: of the policy that is in force.
        across, up: (place, text) of the marks of both axes.
        final: height of the plain network's accuracy.
    """

    line: str
    here: tuple[float, float]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    final: float


def _chart(points: Sequence[tuple[float, float]], here: tuple[float, float], final: float) -> _Chart:
    costs = [cost for cost, _ in (*points, here)] + [0.0, 1.0]
    heights = [accuracy for _, accuracy in (*points, here)] + [final]
    most = max(costs)
    low, high = max(0.0, min(heights) - 1), min(100.0, max(heights) + 1)
    step = next(each for each in (1, 2, 5, 10, 20, 50) if (high - low) / each <= 6)

    def x(cost: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * cost / most, 1)

    def y(accuracy: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (accuracy - low) / (high - low), 1)

    return _Chart(
        line=" ".join(f"{x(cost)},{y(accuracy)}" for cost, accuracy in points),
        here=(x(here[0]), y(here[1])),
        across=[(x(part / 4), f"{25 * part} %") for part in range(5)],
        up=[(y(value), str(value)) for value in range(-int(-low // 1), int(high) + 1) if value % step == 0],
        final=y(final),
    )


def thresholds(runs: Sequence[Shown], policies: Sequence[Policy]) -> str:
    """What the policies do to the test images."""
    panels: list[dict[str, Any]] = []
    for run, policy in zip(runs, policies, strict=True):
        found: Simulated | None = run.simulated(policy) if run.num_exits else None
        panel: dict[str, Any] = {"run": run, "found": found, "policy": policy}
        if found is not None and run.outcomes is not None:
            whole, count = run.outcomes.trunk_macs[-1], found.count
            final = 100 * float(run.outcomes.right[-1].mean())
            num_outputs = run.num_exits + 1
            panel |= {
                "cost": found.macs / whole,
                "macs": found.macs,
                "lost": final - found.accuracy,
                "final": final,
                "chart": _chart(run.points, (found.macs / whole, found.accuracy), final),
                "shares": [
                    (name, left / count, colour(place, num_outputs))
                    for place, (name, left) in enumerate(zip(output_names(num_outputs), found.left, strict=True))
                ],
                "some": run.outcomes.total if run.outcomes.total > count else None,
            }
        panels.append(panel)
    return _render(
        "thresholds", panels=panels, width=_WIDTH, height=_HEIGHT, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM
    )


def mistakes(runs: Sequence[Shown]) -> str:
    """Test images that the final output got wrong."""
    return _render("mistakes", runs=runs)
