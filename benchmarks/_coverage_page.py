"""What coverage.py found, as shares and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

SUITES = ("torchvision", "timm")


def summary(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Of each library how many passed, and how many were tried."""
    return {
        suite: {"passed": sum(row["passed"] for row in rows), "tried": len(rows)}
        for suite in SUITES
        for rows in [[row for name, row in kept.items() if name.startswith(f"{suite}/")]]
    }


def page(
    kept: Mapping[str, Mapping[str, Any]], known: int, versions: Mapping[str, str], machine: Mapping[str, Any]
) -> str:
    """docs/coverage.md.

    Args:
        known: networks and modules that there are.
    """
    shares = summary(kept)
    said = {
        suite: f"{found['passed']} of {found['tried']} ({100 * found['passed'] / max(1, found['tried']):.0f} %)"
        for suite, found in shares.items()
    }
    rows = [kept[name] for name in sorted(kept)]
    failed = [[row["name"], row["network"], _escaped(row["reason"])] for row in rows if not row["passed"]]
    passed = [row for row in rows if row["passed"]]
    parts = [
        "# Which networks can be boosted",
        "",
        "`metadistiller.boost` on networks with random weights, 10 classes and two small images: the network answers as "
        "before,\nbit for bit; a step of the student and a step of the generator are finite and move what they should; "
        "`unwrap` gives\nthe same object with the same keys, and no hook is left. It says that a network can be "
        "trained so, not how well it\nlearns.",
        "",
        "| library | tried | passed |",
        "| --- | --- | --- |",
        f"| torchvision {versions['torchvision']} | every classifier | {said['torchvision']} |",
        f"| timm {versions['timm']} | the smallest network of each module | {said['timm']} |",
        "",
        f"Not tried: {known - len(kept)} of {known}. PyTorch {versions['torch']}, {machine['processor']}, one thread. "
        "Command, which goes on where it\nstopped:",
        "",
        "```sh",
        "OMP_NUM_THREADS=1 python benchmarks/coverage.py --out coverage.json",
        "python benchmarks/coverage.py --out coverage.json --markdown",
        "```",
        "",
        "## What failed",
        "",
        *(_table(("network or module", "tried", "reason"), failed) if failed else ["Nothing."]),
        "",
        "## What passed",
        "",
        "Layout is how the network keeps its maps; derivative is how the exits' derivative of eq. 8 is taken "
        "(`forward_mode`\nand `double_backward` are exact).",
        "",
        *_table(
            ("network or module", "tried", "pixels", "stages", "shapes of the maps", "layout", "derivative"),
            [
                [
                    row["name"],
                    row["network"],
                    row["size"],
                    len(row["stages"]),
                    ", ".join("x".join(map(str, shape)) for _, _, shape in row["stages"]),
                    ", ".join(dict.fromkeys(layout for _, layout, _ in row["stages"])),
                    row["derivative"],
                ]
                for row in passed
            ],
        ),
        "",
    ]
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
