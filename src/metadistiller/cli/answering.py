"""The command that answers."""

import json
import sys
from typing import TYPE_CHECKING

from ..errors import DataError
from ._words import parse, parser_of, plain, print_table

if TYPE_CHECKING:
    from ..prediction import Prediction


def predict(words: list[str]) -> None:
    """Class and probability of image files: metadistiller predict RUN|FILE IMAGES... [--threshold 0.9] [--top 1]"""
    parser = parser_of(predict)
    parser.add_argument("network", help="a run folder, or what 'metadistiller export' or 'calibrate' wrote")
    parser.add_argument("images", nargs="+", help="files, folders, or patterns such as 'photos/*.jpg'")
    parser.add_argument(
        "--threshold", type=float, help="probability that an early exit needs to answer; default 0.9, or as exported"
    )
    parser.add_argument("--top", type=int, default=1, help="how many classes are named; default 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, one for each image")
    given = parse(parser, words)
    from ..prediction import THRESHOLD
    from ..prediction import predict as answers_of

    found = answers_of(given.network, given.images, threshold=given.threshold, top=given.top)
    threshold = THRESHOLD if given.threshold is None else given.threshold
    if given.json:
        for answer in found.answers:
            print(json.dumps(answer.as_dict()))
    elif found.answers and found.early:
        print_table(
            f"{given.network}: each image by the first output that is certain enough",
            ("image", "answer", "by"),
            [(answer.path, _likeliest(answer), answer.exit) for answer in found.answers],
        )
    elif found.answers:
        rows = [
            (
                answer.path,
                _likeliest(answer),
                answer.exit,
                f"{answer.exit_name} {answer.exit_probability:.4f}",
            )
            for answer in found.answers
        ]
        print_table(
            f"{given.network}: the final output, and the first of at least {threshold:g}",
            ("image", "final output", "would answer", "saying"),
            rows,
        )
    for path, reason in found.unreadable:
        print(plain(f"{path} cannot be read ({reason})"), file=sys.stderr)
    if found.unreadable:
        total = len(found.answers) + len(found.unreadable)
        raise DataError(f"{len(found.unreadable)} of {total} images cannot be read; replace or leave them out")


def _likeliest(answer: "Prediction") -> str:
    return ", ".join(f"{name} {probability:.4f}" for name, probability in answer.top)
