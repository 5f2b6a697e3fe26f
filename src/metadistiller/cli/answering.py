"""The command that answers."""

import json
import sys

from ..errors import DataError
from ._words import parse, parser_of, plain, print_table


def predict(words: list[str]) -> None:
    """Class and probability of image files: metadistiller predict RUN|FILE IMAGES... [--threshold 0.9] [--top 1]"""
    parser = parser_of(predict)
    parser.add_argument("network", help="a run folder, or a file from 'metadistiller export'")
    parser.add_argument("images", nargs="+", help="files, folders, or patterns such as 'photos/*.jpg'")
    parser.add_argument("--threshold", type=float, default=0.9, help="probability that an early exit needs to answer")
    parser.add_argument("--top", type=int, default=1, help="how many classes are named; default 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, one for each image")
    given = parse(parser, words)
    from ..prediction import predict as answers_of

    found = answers_of(given.network, given.images, threshold=given.threshold, top=given.top)
    if given.json:
        for answer in found.answers:
            print(json.dumps(answer.as_dict()))
    elif found.answers:
        rows = [
            (
                answer.path,
                ", ".join(f"{name} {probability:.4f}" for name, probability in answer.top),
                answer.exit,
                f"{answer.exit_name} {answer.exit_probability:.4f}",
            )
            for answer in found.answers
        ]
        print_table(
            f"{given.network}: the final output, and the first of at least {given.threshold:g}",
            ("image", "final output", "would answer", "saying"),
            rows,
        )
    for path, reason in found.unreadable:
        print(plain(f"{path} cannot be read ({reason})"), file=sys.stderr)
    if found.unreadable:
        total = len(found.answers) + len(found.unreadable)
        raise DataError(f"{len(found.unreadable)} of {total} images cannot be read; replace or leave them out")
