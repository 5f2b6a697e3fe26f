"""MetaDistiller with one thing changed, each variant against the unchanged method."""

from collections.abc import Mapping, Sequence

from metadistiller import paper

from ._groups import Group, accuracy, counterpart, epochs_of, family, gain, others, told
from ._markdown import table, text

INTRO = """\
MetaDistiller with one thing changed. A difference is that of the final output from the recipe's own settings, paired by
seed, with its 95 % interval and the number of pairs."""

HEADINGS = ("variant", "final", "ensemble", "difference")


def ablations(groups: Mapping[str, list[Group]]) -> list[str]:
    """One table for each network, number of epochs and whatever else is the same in its runs; none without variants."""
    parts: list[str] = []
    for network in paper.NETWORKS:
        found = groups.get(paper.run_name(network, "metadistiller"), [])
        settings: dict[tuple[int, int, str], list[Group]] = {}
        for item in found:
            if family(item.first.overrides, "method"):
                shared = told(others(item.first.overrides, "method"))
                settings.setdefault((-item.first.epochs, len(shared), shared), []).append(item)
        for key in sorted(settings):
            variants = settings[key]
            parts += [f"### {network}, {_conditions(variants[0])}", _table(variants, counterpart(variants[0], found))]
    return ["## Ablations", INTRO, *parts] if parts else []


def _conditions(item: Group) -> str:
    changed = sorted(others(item.first.overrides, "method").items())
    return ", ".join([epochs_of(item.first), *(f"{key}={text(told(value))}" for key, value in changed)])


def _table(variants: Sequence[Group], unchanged: Group | None) -> str:
    rows = [_row("as in the recipe", unchanged, None)]
    rest = list(variants)
    for label, options in paper.ABLATIONS.items():
        item = next((item for item in rest if _options(item) == options), None)
        rows.append(_row(label, item, unchanged))
        if item is not None:
            rest.remove(item)
    for item in rest:
        label = ", ".join(f"{name} = {text(told(value))}" for name, value in sorted(_options(item).items()))
        rows.append(_row(label, item, unchanged))
    return table(HEADINGS, rows, left=1)


def _options(item: Group) -> dict[str, object]:
    return {key.removeprefix("method."): value for key, value in family(item.first.overrides, "method").items()}


def _row(label: str, item: Group | None, unchanged: Group | None) -> list[str]:
    return [
        label,
        accuracy(item, "final", marked=False),
        accuracy(item, "ensemble", marked=False),
        gain(item, unchanged, "final", marked=False),
    ]
