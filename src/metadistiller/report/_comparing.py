"""Folders of several runs, read into rows."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metadistiller.errors import CheckpointError, ConfigError
from metadistiller.records import RunFolder, compared_run, read_json

from ._reading import printable, read
from ._rows import Row

COMPARISON = "compare.json"


def common_page(folders: Sequence[str | Path]) -> Path:
    """report.html in the folder that holds them all. Raises: ConfigError where that folder has a page of its own."""
    parent = Path(os.path.commonpath([Path(folder).resolve().parent for folder in folders]))
    if (parent / COMPARISON).exists() or RunFolder(parent).config.exists():
        raise ConfigError(
            f"{parent / 'report.html'} is the page of that folder itself; give the page of these runs another name "
            "with --out FILE.html"
        )
    return Path(os.path.relpath(parent)) / "report.html"


def read_several(folders: Sequence[str | Path], page: Path) -> list[Row]:
    """A row for each run, by the name of its folder, or by as much of its path as tells it from the others.

    Raises: ConfigError where a run is named twice; CheckpointError.
    """
    places = [Path(folder).resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(f"{folders[number]} is named twice; name each run once")
    runs = [read(RunFolder.open(folder)) for folder in folders]
    names = _names(places)
    return [
        Row(name=printable(name), place=place, runs={0: run}, links=_links({0: RunFolder(folder)}, page))
        for place, (name, run, folder) in enumerate(zip(names, runs, folders, strict=True))
    ]


def _names(places: Sequence[Path]) -> list[str]:
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def read_comparison(folder: Path, page: Path) -> tuple[str, list[Row]]:
    """The command, and a row for each method.

    Raises: CheckpointError where compare.json or a run is damaged, they are at odds, or no run is finished.
    """
    path = folder / COMPARISON
    if not path.is_file():
        raise CheckpointError(f"{folder} is no comparison (no {COMPARISON} in it); check the path")
    values = read_json(path)
    try:
        command = str(values["command"])
        told = [_told(row) for row in values["rows"]]
        _check(len({name for name, *_ in told}) == len(told), "a row stands there twice")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not hold what 'metadistiller compare' writes ({type(error).__name__}: {error}); it was "
            "damaged or edited, and the same command writes it anew"
        ) from None
    rows = [_row(folder, page, place, *each) for place, each in enumerate(told)]
    if not any(row.runs and not row.teaches for row in rows):
        raise CheckpointError(f"{folder} has no finished run to compare; the command that began it goes on with it")
    return command, rows


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _told(row: Any) -> tuple[str, dict[int, float], bool]:
    """Name, final accuracy by seed, and whether it only teaches."""
    name = str(row["method"])
    # It becomes part of a path.
    _check(name.strip(".") != "", f"a row is called {name!r}")
    finals = {int(seed): float(final) for seed, final in row["finals"].items()}
    return name, finals, bool(row.get("teaches", False))


def _row(folder: Path, page: Path, place: int, name: str, finals: dict[int, float], teaches: bool) -> Row:
    folders = {seed: compared_run(folder, name, seed) for seed in sorted(finals)}
    runs = {seed: read(RunFolder.open(each.path)) for seed, each in folders.items()}
    for seed, run in runs.items():
        if abs(run.result.final - finals[seed]) > 0.01:
            raise CheckpointError(
                f"{folder / COMPARISON} gives {finals[seed]} % for {name!r} with seed {seed}, {folders[seed].result} "
                f"{run.result.final}; they are not of the same comparison"
            )
    return Row(name=printable(name), place=place, runs=runs, links=_links(folders, page), teaches=teaches)


def _links(folders: dict[int, RunFolder], page: Path) -> dict[int, str]:
    """To pages that are there, from where `page` is to lie."""
    start = page.resolve().parent
    return {
        key: quote(os.path.relpath(folder.report.resolve(), start))
        for key, folder in folders.items()
        if folder.report.exists() and folder.report.resolve() != page.resolve()
    }
