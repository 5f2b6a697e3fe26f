"""The command that looks at a data set before anybody trains on it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError
from ._words import parse, parser_of, plain, print_table

if TYPE_CHECKING:
    from ..checking import Checked

_AT_MOST = 10  # findings of a kind, and files of a note, that are printed; --json has all
_CLASSES = 12  # up to so many are printed one by one


def check(words: list[str]) -> None:
    """Whether a data set can be trained on, image by image: metadistiller check DATA [--data.OPTION VALUE] [--json]"""
    parser = parser_of(check)
    parser.add_argument("data", help="a name or a path, as --data of 'metadistiller train' takes it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "--data.NAME VALUE sets an option of the data set, such as --data.image_column photo."
    own, options = _apart(words)
    given = parse(parser, own)
    from ..checking import check as look
    from ..settings import parse as settings

    found = look(settings([f"--data={given.data}", *options], command="metadistiller check").config.data)
    if given.json:
        print(json.dumps(found.as_dict()))
    else:
        _print(found)
    if not found.sound:
        kinds = sorted({problem.kind for problem in found.problems})
        way_out = "; --data.on_bad_image skip trains without images that cannot be read" * ("unreadable" in kinds)
        raise DataError(f"{given.data}: {len(found.problems)} problems ({', '.join(kinds)}), as said above{way_out}")


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and those of the data set's options."""
    own: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--data."):
            own.append(word)
            continue
        value = None if "=" in word else next(rest, None)
        if "=" not in word and value is None:
            raise ConfigError(f"{word} needs a value ('metadistiller train --data NAME --help' shows what there is)")
        options.append(word if value is None else f"{word}={value}")
    return own, options


def _print(found: "Checked") -> None:
    if found.parts:
        rows = [
            (
                name,
                f"{part.images:,}",
                f"{part.readable:,}",
                _spread(part.width),
                _spread(part.height),
                ", ".join(f"{count:,} {form}" for form, count in part.forms.items()),
            )
            for name, part in found.parts.items()
        ]
        headings = ("part", "images", "readable", "width", "height", "kinds")
        print_table(f"{found.data}: {found.source}", headings, rows)
        _print_classes(found)
    for kind in dict.fromkeys(problem.kind for problem in found.problems):
        texts = [problem.text for problem in found.problems if problem.kind == kind]
        print("\n".join(f"problem: {plain(text)}" for text in texts[:_AT_MOST]))
        if len(texts) > _AT_MOST:
            print(f"problem: and {len(texts) - _AT_MOST} more of the kind (--json has all)")
    for note in found.notes:
        some = ", ".join(note.paths[:_AT_MOST]) + (", ..." if len(note.paths) > _AT_MOST else "")
        print(f"note: {plain(note.text)}" + (f": {plain(some)}" if some else ""))
    if found.sound:
        print("nothing is wrong")


def _print_classes(found: "Checked") -> None:
    train, test = (found.parts[part].per_class for part in ("train", "test"))
    by_size = sorted(train, key=lambda name: (-train[name], name))
    title = f"{len(train)} classes"
    if len({*train.values()}) == len({*test.values()}) == 1:
        print(f"{title}, each of {train[by_size[0]]:,} training and {test[by_size[0]]:,} test images")
        return
    if len(by_size) > _CLASSES:
        title += f", the {_CLASSES // 2} largest and smallest"
        by_size = by_size[: _CLASSES // 2] + by_size[-_CLASSES // 2 :]
    rows = [(name, f"{train[name]:,}", f"{test[name]:,}") for name in by_size]
    print_table(title, ("class", "train", "test"), rows)


def _spread(values: tuple[int, float, int] | None) -> str:
    if values is None:
        return ""
    low, middle, high = values
    return f"{low}" if low == high else f"{low} / {middle:g} / {high}"
