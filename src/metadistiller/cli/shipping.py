"""Commands that put a trained network to work."""

from typing import TYPE_CHECKING

from ._words import parse, parser_of, plain

if TYPE_CHECKING:
    from ..exporting import Exported


def export(words: list[str]) -> None:
    """The plain network of a run as one file: metadistiller export RUN [--format onnx] [--out FILE] [--int8]"""
    parser = parser_of(export)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--format", default="safetensors", help="safetensors (default), torch, onnx or onnx-stages")
    parser.add_argument("--out", help="the file, or the folder of stages; RUN/exported.safetensors and so on otherwise")
    parser.add_argument(
        "--int8", action="store_true", help="of onnx: a second file, .int8.onnx, with 8-bit numbers; says its accuracy"
    )
    given = parse(parser, words)
    from ..exporting import export as write

    done = write(given.run, given.out, format=given.format, int8=given.int8)
    _print_proof(done)
    print(plain(str(done.path)))
    if done.quantised is not None:
        print(plain(str(done.quantised.path)))
    print(plain(f"{done.card} says what it is"))


def push(words: list[str]) -> None:
    """A finished run's network and its card to the Hugging Face hub: metadistiller push RUN hf:NAME [--private]"""
    parser = parser_of(push)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("where", help="hf:NAME or hf:OWNER/NAME; made where it is not there yet")
    parser.add_argument("--format", default="safetensors", help="safetensors (default), torch or onnx")
    parser.add_argument("--int8", action="store_true", help="of onnx: a second file with 8-bit numbers")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is for its owner only")
    given = parse(parser, words)
    from ..pushing import push as upload

    address, done = upload(given.run, given.where, format=given.format, int8=given.int8, private=given.private)
    _print_proof(done)
    print(plain(address))


def _print_proof(done: "Exported") -> None:
    count = f"{done.proof.count:,} test images"
    if done.proof.gap == 0:
        print(f"{count} give bitwise the same logits as the trained network")
    else:
        print(
            f"{count} get the same class from the file as from the trained network; logits differ by "
            f"{done.proof.gap:.1e} of the largest at most"
        )
    if (small := done.quantised) is not None:
        print(
            f"8-bit numbers put {small.accuracy:.2f} % of {small.count:,} test images right, where the float network "
            f"has {small.float_accuracy:.2f} %; ranges from {small.calibration:,} training images"
        )
