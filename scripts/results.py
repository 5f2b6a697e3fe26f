"""Write the README's results out of evidence/ledger.json: python scripts/results.py

A line `<!-- results: NAME -->` and the next `<!-- end of results -->` hold what SETTINGS selects by that name; what
stands between them is written anew.
"""

import re
import sys
from pathlib import Path
from typing import Any

from metadistiller import report
from metadistiller.errors import LedgerError, UnknownName
from metadistiller.records import write_text

ROOT = Path(__file__).parents[1]

# What selects the runs: the recipe that they are changed from, their epochs, and every change that is not the method's.
SETTINGS: dict[str, dict[str, Any]] = {
    "digits-10-per-class": {"recipe": "digits", "epochs": 200, "overrides": {"data.train_per_class": 10}},
    "cifar100-50-per-class": {
        "recipe": "cifar100",
        "epochs": 50,
        "overrides": {"data.train_per_class": 50, "model.name": "resnet10", "model.width": 16},
    },
    "photos": {
        "recipe": "folder",
        "epochs": 60,
        "overrides": {
            "data.root": "photos",
            "data.size": 96,
            "model.name": "resnet10",
            "model.stem": "imagenet",
            "model.width": 16,
        },
    },
}

_PLACE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end of results -->)", flags=re.DOTALL)


def written(page: str, evidence: Path = ROOT / "evidence") -> str:
    """The page as the ledger makes it.

    Raises: LedgerError where a setting has no runs; UnknownName for a name that SETTINGS has not.
    """
    for _, name, _ in _PLACE.findall(page):
        if name not in SETTINGS:
            raise UnknownName("result", name, SETTINGS)
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{report.results(evidence, **SETTINGS[place[2]])}\n\n{place[3]}",
        page,
    )


def main() -> int:
    path = ROOT / "README.md"
    page = path.read_text(encoding="utf-8")
    try:
        made = written(page)
    except (UnknownName, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if made != page:
        write_text(path, made)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
