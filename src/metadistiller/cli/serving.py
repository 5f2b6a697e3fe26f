"""The command that shows a run in a browser."""

from ._words import parse, parser_of


def app(words: list[str]) -> None:
    """Try a run in a browser, on this machine: metadistiller app RUN [RUN2] [--port 7860] [--threshold 0.9] [--open]"""
    parser = parser_of(app)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="one run folder, or two to compare")
    parser.add_argument("--port", type=int, default=None, help="default: 7860, or the next one that is free")
    parser.add_argument("--threshold", type=float, default=0.9, help="probability that an early exit needs to answer")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    given = parse(parser, words)
    from ..app import serve

    serve(given.runs, port=given.port, threshold=given.threshold, open_browser=given.open)
