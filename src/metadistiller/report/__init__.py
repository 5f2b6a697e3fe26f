"""The report of a finished run, one HTML page that opens anywhere, offline; the same of several side by side; and the
evidence page of a ledger of runs.

_run.py         a finished run as plain values
_reading.py     the run folder, read into them and checked
_judging.py     what the outputs of a run say of its probabilities and its early exits
_tables.py      numbers: accuracy with intervals, confusions, cost
_charts.py      drawing: lines, bars, matrix, each an SVG in a data: address
_diagrams.py    further charts: reliability, accuracy against cost, many classes
_curves.py      which columns of a run go on which chart
_exhibits.py    what is drawn of a test image
_outputs.py     what the page says of calibration and early exits
_sections.py    the page of one run, section by section
_rows.py        several runs, or methods with several seeds, as rows: differences, common curves
_beside.py      the pages of those, section by section
_comparing.py   their folders, read into rows
_page.py        sections put into templates/
_figure3.py     Fig. 3 of the paper, a file by itself

_groups.py      the ledger's runs, those of the same settings together, and what is said of them
_evidence.py    the paper's tables with our numbers beside its own, and every run
_effective.py   what a run was set to, whatever recipe it was started from
_compared.py    runs that are no rows of those tables, by setting and method
_comparisons.py their tables, and what their soft targets were over training
_results.py     one of them as a table for the README
_cost.py        time and memory beside plain training
_ablations.py   variants of the method
_card.py        the model card beside an exported network
_markdown.py    text, code and tables that nothing in them can break
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metadistiller import ledger
from metadistiller.errors import ConfigError, LedgerError
from metadistiller.records import RunFolder, write_bytes, write_text

from ._card import Shipped, ShippedInt8

__all__ = [
    "Shipped",
    "ShippedInt8",
    "check_figure3",
    "results",
    "write",
    "write_card",
    "write_comparison",
    "write_evidence",
    "write_figure3",
    "write_several",
]


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a finished run; an older one is replaced.

    The same run folder gives the same bytes, and the page asks no other host for anything.

    Args:
        out: a file that ends in .html; None takes report.html in the folder.
    Returns: the path of the page.
    Raises: CheckpointError where the folder is none of a finished run, or a file in it is damaged; ConfigError where
        `out` cannot be such a file.
    """
    # Drawing takes most of a second to import: who only imports the package does not pay for it.
    from ._page import render
    from ._reading import read

    run_folder = RunFolder.open(folder)
    page = run_folder.report if out is None else _checked(out)
    return _written(page, render(read(run_folder)))


def write_several(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write a page of finished runs side by side; an older one is replaced. The same folders give the same bytes.

    Args:
        folders: of finished runs, in the order of the page; all different.
        out: a file that ends in .html; None takes report.html in the folder that holds them all.
    Returns: the path of the page.
    Raises: as `write`; ConfigError also where a run is named twice, and where `out` is None and that folder has a page
        of its own.
    """
    from ._beside import render_several
    from ._comparing import common_page, read_several

    page = common_page(folders) if out is None else _checked(out)
    return _written(page, render_several(read_several(folders, page)))


def write_comparison(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a folder of `metadistiller compare`; an older one is replaced. The same runs, the same bytes.

    Args:
        out: a file that ends in .html; None takes report.html in the folder.
    Returns: the path of the page.
    Raises: CheckpointError where the folder has no compare.json, it or a run is damaged, or no run is finished;
        ConfigError where `out` cannot be such a file.
    """
    from ._beside import render_comparison
    from ._comparing import read_comparison

    page = Path(folder) / "report.html" if out is None else _checked(out)
    return _written(page, render_comparison(*read_comparison(Path(folder), page)))


def _checked(out: str | Path) -> Path:
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"the page's file is {str(out)!r}; take a name that ends in .html")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file, such as {path / 'report.html'}")
    return path


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def write_evidence(folder: str | Path) -> Path:
    """Write README.md beside the ledger.json in a folder; an older one is replaced.

    The same runs give the same bytes, in whatever order they were entered; figure3.svg is shown where it is there too.
    The ledger is held meanwhile: of several processes none replaces the page of one that knew more runs.

    Returns: the path of the page.
    Raises: LedgerError where there is no ledger, it is damaged, or somebody else holds it for half a minute.
    """
    from ._evidence import render

    source = Path(folder) / "ledger.json"
    if not source.is_file():
        raise LedgerError(f"{source} is not there; give the folder of a ledger, such as evidence")
    page = source.with_name("README.md")
    with ledger.locked(source):
        write_text(page, render(ledger.read(source), figure3=source.with_name("figure3.svg").is_file()))
    return page


def results(folder: str | Path, *, recipe: str, epochs: int, overrides: Mapping[str, Any]) -> str:
    """A comparison out of the ledger.json in a folder, as a short Markdown table with its command.

    Args:
        recipe: that its runs are changed from.
        epochs: of its runs.
        overrides: by dotted name every other setting that is not the recipe's, those of the method and of a row
            (config.OF_A_ROW) left out.
    Raises: LedgerError where the ledger cannot be read, or has no such runs.
    """
    from ._results import results as table_of

    return table_of(ledger.read(Path(folder) / "ledger.json"), recipe=recipe, epochs=epochs, overrides=overrides)


def write_card(folder: str | Path, shipped: Shipped) -> Path:
    """Write the model card of a file that was exported from a run, beside it.

    A README.md that is there already is replaced where it is such a card; where it is somebody else's it stays as it
    is, and the card's name has the file's before it.

    Returns: the path of the card.
    Raises: CheckpointError where a file of the run is damaged.
    """
    from ._card import place, render

    page = place(shipped.path)
    write_text(page, render(RunFolder.open(folder), shipped))
    return page


def check_figure3(path: str | Path, *, num_images: int) -> None:
    """Whether `write_figure3` could write this file; to be asked before the images are.

    Raises: ConfigError.
    """
    from ._figure3 import check

    check(Path(path), num_images)


def write_figure3(values: Mapping[str, Any], path: str | Path) -> Path:
    """Draw test images with what soft targets, exits and the final output say about them; an older file is replaced.

    The same values give the same bytes.

    Args:
        values: as metadistiller.figure3 returns them.
        path: a file that ends in .svg, .png or .pdf.
    Returns: the path of the figure.
    Raises: ConfigError where it cannot be such a file.
    """
    from ._figure3 import check, render

    path = Path(path)
    check(path, len(values["images"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, render(values, path.suffix))
    return path
