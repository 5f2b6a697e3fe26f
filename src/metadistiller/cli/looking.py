"""Commands that look at what is there."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ._words import parse, parser_of, print_evaluation, print_table


def evaluate(words: list[str]) -> None:
    """Test accuracy of a run's newest checkpoint: metadistiller evaluate RUN [--ensemble probabilities]"""
    parser = parser_of(evaluate)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--ensemble", help="mean of logits or of probabilities; the run's own otherwise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parse(parser, words)
    from ..assemble import evaluate_run

    restored, found = evaluate_run(given.run, ensemble=given.ensemble)
    _tell_refused(restored.refused)
    if given.json:
        scores = {"exits": found.exits, "final": found.final, "ensemble": found.ensemble, "loss": found.loss}
        print(json.dumps({**scores, "count": found.count, "epochs": restored.epochs_done}))
    else:
        title = f"{given.run} after {restored.epochs_done} of {restored.config.epochs} epochs"
        print_evaluation(title, found.as_dict(restored.dataset.classes))


def _tell_refused(reasons: Sequence[str]) -> None:
    for reason in reasons:
        print(f"checkpoint refused: {reason}", file=sys.stderr)


def figure3(words: list[str]) -> None:
    """Soft targets, exits and final output on test images: metadistiller figure3 RUN [--images 3,17,42] [--out FILE]"""
    parser = parser_of(figure3)
    parser.add_argument("run", help="the run folder")
    parser.add_argument(
        "--images", help="places in the test set, from 0, comma-separated; one of three classes otherwise"
    )
    parser.add_argument("--out", help="a file that ends in .svg, .png or .pdf; RUN/figure3.svg otherwise")
    parser.add_argument("--json", action="store_true", help="print one JSON object and draw nothing")
    given = parse(parser, words)
    if given.json and given.out:
        raise ConfigError(f"--json draws nothing, but --out is {given.out}; give one of them")
    images = None if given.images is None else _places(given.images)
    from .. import assemble

    out = None if given.json else given.out or str(Path(given.run) / "figure3.svg")
    restored, values = assemble.figure3(given.run, images, out=out)
    _tell_refused(restored.refused)
    if given.json:
        print(json.dumps(values))
        return
    entropy = values["entropy"]
    rows = [
        (f"stage {k}", *(f"{means[k - 1]:.3f}" if means else "" for means in (entropy["targets"], entropy["exits"])))
        for k in range(1, len(entropy["exits"]) + 1)
    ]
    print_table(
        f"{given.run} after {restored.epochs_done} of {restored.config.epochs} epochs: mean entropy in nats of "
        f"{entropy['count']:,} test images",
        ("", "soft target", "output"),
        [*rows, ("final", "", f"{entropy['final']:.3f}")],
    )
    print(out)


def _places(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--images is {text!r}; give places in the test set with commas between, such as 3,17,42"
        ) from None


def inspect(words: list[str]) -> None:
    """Stages, exits, generator and costs of a network: metadistiller inspect NAME [--classes N] [--size N] [--json]"""
    parser = parser_of(inspect)
    parser.add_argument("name", help="a network from 'metadistiller list networks', timm/NAME or torchvision/NAME")
    parser.add_argument("--classes", type=int, default=100, help="default 100")
    parser.add_argument("--size", type=int, help="pixels of a side; those that the network was made for otherwise")
    parser.add_argument("--stem", choices=("cifar", "imagenet"), help="for networks that have one")
    parser.add_argument(
        "--width", type=number, metavar="NUMBER", help="for networks that have one: channels, or a factor on them"
    )
    parser.add_argument("--stages", help="of timm/NAME and torchvision/NAME: modules that stages end with, as A,B,C")
    parser.add_argument("--candidates", action="store_true", help="list the modules that a stage may end with")
    parser.add_argument("--generator", default="mirror", help="mirror, or channels of every map")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parse(parser, words)
    from ..config import Choice
    from ..inspection import inspect as counts_of

    options = {key: getattr(given, key) for key in ("stem", "width") if getattr(given, key) is not None}
    if given.stages is not None:
        options["stages"] = tuple(given.stages.split(","))
    if given.generator != "mirror" and not (given.generator.isdecimal() and int(given.generator) > 0):
        raise ConfigError(f"--generator is {given.generator!r}; take mirror, or channels from 1 on")
    found = counts_of(
        Choice(name=given.name, options=options),
        num_classes=given.classes,
        size=None if given.size is None else (given.size, given.size),
        generator_width="mirror" if given.generator == "mirror" else int(given.generator),
    )
    if given.json:
        print(json.dumps(found))
        return
    _print_inspection(found, given.name, given.generator, candidates=given.candidates)


def _print_inspection(found: Mapping[str, Any], name: str, generator: str, *, candidates: bool) -> None:
    rows = [
        (f"stage {k}", " ".join(filter(None, (_map_of(s), s.get("module")))), "", "")
        for k, s in enumerate(found["stages"], start=1)
    ]
    design = found["exits"]["design"]
    for part, counts, stays in (
        ("network", found, "ships"),
        ("exits" if design == "bottleneck" else f"exits ({design})", found["exits"], "removed after training"),
        (f"generator ({generator})", found["generator"], "removed after training"),
    ):
        rows.append((part, stays, f"{counts['parameters']:,}", f"{counts['macs']:,}"))
    height, width = found["size"]
    print_table(
        f"{name}, {found['classes']} classes, {height} x {width} pixels", ("part", "", "parameters", "MACs"), rows
    )
    if candidates:
        print("modules that a stage may end with:")
        for candidate in found.get("candidates", ()):
            print(f"  {candidate['module']}  {_map_of(candidate)}")
    elif "candidates" in found:
        print(
            f"other stages: --model.stages [A,B,...] when training, out of {len(found['candidates'])} modules "
            "(--candidates lists them)"
        )


def _map_of(shape: Mapping[str, Any]) -> str:
    return f"{shape['channels']} x {shape['height']} x {shape['width']}"


def number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        return float(word)


def list_names(words: list[str]) -> None:
    """Names of networks, methods, data sets and recipes: metadistiller list [networks|methods|data|recipes]"""
    parser = parser_of(list_names, "list")
    parser.add_argument("what", nargs="?", choices=("networks", "methods", "data", "recipes"))
    given = parse(parser, words)
    from ..lookup import FAMILIES, endless, table
    from ..recipes import recipes

    packages = {"networks": FAMILIES["model"][0], "methods": FAMILIES["method"][0], "data": FAMILIES["data"][0]}
    for what in [given.what] if given.what else [*packages, "recipes"]:
        if what == "recipes":
            lines = {name: (make.__doc__ or "").splitlines()[0] for name, make in recipes().items()}
        else:
            lines = {name: member.summary for name, member in table(packages[what]).items()} | endless(packages[what])
        print(f"{what}:")
        width = max(map(len, lines))
        for name, summary in lines.items():
            print(f"  {name:<{width}} {summary}")


def report(words: list[str]) -> None:
    """Write the page of a run, of several, or of a ledger, anew: metadistiller report RUN [RUN ...] [--out FILE]"""
    parser = parser_of(report)
    parser.add_argument(
        "folder", nargs="+", help="a finished run or several, a comparison, or a folder with ledger.json"
    )
    parser.add_argument(
        "--out", help="a file that ends in .html; report.html in the folder, or beside several, otherwise"
    )
    given = parse(parser, words)
    from .. import report as pages

    (first, *more) = given.folder
    if more:
        print(pages.write_several(given.folder, given.out))
    elif (Path(first) / "ledger.json").exists():
        if given.out:
            raise ConfigError(f"the page of a ledger is README.md beside it; leave --out {given.out} out")
        from ..entering import renew

        for left in renew(Path(first)):
            print(f"told as when it was entered: {left}")
        print(pages.write_evidence(first))
    elif (Path(first) / "compare.json").exists():
        print(pages.write_comparison(first, given.out))
    else:
        print(pages.write(first, given.out))
