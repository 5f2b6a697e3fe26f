"""The report of a finished run: one HTML page that opens anywhere, offline.

_run.py         a finished run as plain values
_reading.py     the run folder, read into them and checked
_tables.py      numbers: accuracy with intervals, confusions, cost
_charts.py      drawing: lines, bars, matrix, each an SVG in a data: address
_curves.py      which columns of a run go on which chart
_page.py        everything put into page.html.j2
"""

from pathlib import Path

from metadistiller.records import RunFolder, write_text

__all__ = ["write"]


def write(folder: str | Path) -> Path:
    """Write report.html into the folder of a finished run; an older one is replaced.

    The same run folder gives the same bytes, and the page asks no other host for anything.

    Returns: the path of the page.
    Raises: CheckpointError where the folder is none of a finished run, or a file in it is damaged.
    """
    # Drawing takes most of a second to import: who only imports the package does not pay for it.
    from ._page import render
    from ._reading import read

    run_folder = RunFolder.open(folder)
    write_text(run_folder.report, render(read(run_folder)))
    return run_folder.report
