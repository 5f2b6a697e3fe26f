"""Which networks can be boosted: all classifiers of torchvision, and the smallest of every module of timm.

Each network, with random weights and 10 classes, in a process of its own (with --quick in this one): boost, one student
step, one meta step, unwrap; then the same module must come back with the same keys and shapes, no hook left, and before
it is trained the logits must be the same to the bit. Batches of 2 images of the smallest size among a few that the
network takes.

    python benchmarks/coverage.py --quick                                  12 networks, under a minute
    python benchmarks/coverage.py --out coverage.json                      all; goes on where it was stopped
    python benchmarks/coverage.py --out coverage.json --markdown docs/coverage.md
"""

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

CLASSES = 10
QUICK = (
    *("torchvision/resnet18", "torchvision/vit_b_32", "torchvision/swin_t", "torchvision/densenet121"),
    *("torchvision/squeezenet1_1", "torchvision/googlenet", "timm/resnet10t", "timm/vit_tiny_patch16_224"),
    *("timm/convnext_atto", "timm/mixer_s32_224", "timm/levit_128s", "timm/regnetx_002"),
)
SIZES = (64, 96, 128, 224, 256, 288, 299, 384, 448, 512)


def names(suite: str) -> list[str]:
    """Small before large, so that what takes long comes last."""
    found: list[tuple[int, str]] = []
    if suite == "torchvision":
        from torchvision import models

        for name in models.list_models(module=models):
            found.append((models.get_model_weights(name).DEFAULT.meta["num_params"], f"torchvision/{name}"))
    else:
        import timm

        for module in timm.list_modules():
            sizes = [(_parameters(name), name) for name in _small(timm.list_models(module=module))]
            sizes = [(count, name) for count, name in sizes if count]
            if sizes:
                count, name = min(sizes)
                found.append((count, f"timm/{name}"))
    return [name for _, name in sorted(found)]


def _small(known: list[str]) -> list[str]:
    """Up to five of a module: those whose names say that they are small, else the first."""
    words = ("atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "_s", "small", "micro", "10", "14", "18", "_0", "b0")
    return sorted(known, key=lambda name: (not any(word in name for word in words), len(name)))[:5]


def _parameters(name: str) -> int:
    """0 for what is no classifier: encoders stand in the same list."""
    import timm
    import torch

    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = timm.create_model(name, num_classes=CLASSES)
        return sum(p.numel() for p in network.parameters()) if network.num_classes == CLASSES else 0
    except Exception:
        # Some make tensors that this device has not; their size does not matter then.
        return 10**9


def build(name: str) -> Any:
    library, _, architecture = name.partition("/")
    if library == "torchvision":
        from torchvision import models

        return models.get_model(architecture, weights=None, num_classes=CLASSES)
    import timm

    return timm.create_model(architecture, num_classes=CLASSES)


def one(name: str) -> dict[str, Any]:
    """What happened to one network."""
    import torch

    import metadistiller

    began = time.perf_counter()
    torch.manual_seed(0)
    network = build(name)
    keys = {key: value.shape for key, value in network.state_dict().items()}
    boosted, size = _boosted(network)
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(2, 3, size, size, generator=generator) for _ in range(2)]
    batches = [(image, torch.tensor([3, 7])) for image in images]
    network.eval()
    with torch.no_grad():
        torch.manual_seed(2)
        plain = network(images[0])
        torch.manual_seed(2)
        inside = boosted(images[0])
    _check(torch.equal(getattr(plain, "logits", plain), inside), "logits inside differ from the plain network's")
    boosted.train()
    student = torch.optim.SGD(boosted.student_parameters(), lr=0.01)
    before = next(boosted.student_parameters()).detach().clone()
    loss = boosted.loss(*batches[0])
    loss.backward()
    _check(math.isfinite(loss.item()), f"the student's loss is {loss.item()}")
    student.step()
    student.zero_grad()
    _check(not torch.equal(before, next(boosted.student_parameters())), "the student's step moved nothing")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        boosted.meta_loss(batches[0], batches[1], inner_lr=0.01).backward()
    gradients = [p.grad for p in boosted.generator_parameters()]
    _check(all(g is not None and g.isfinite().all() for g in gradients), "the meta-gradient is not finite")
    _check(any(g.abs().sum() > 0 for g in gradients if g is not None), "the meta-gradient is zero")
    _check(boosted.unwrap() is network, "another module came back")
    _check({key: value.shape for key, value in network.state_dict().items()} == keys, "the keys have changed")
    _check(not any(module._forward_hooks for module in network.modules()), "hooks were left")
    backbone = boosted.method.deployable()
    shapes = metadistiller.nn.stage_shapes(backbone, (size, size))
    return {
        "passed": True,
        "size": size,
        "stages": [f"{stage.name} {'x'.join(map(str, s))}" for stage, s in zip(backbone.found, shapes, strict=True)],
        "layout": sorted({stage.layout for stage in backbone.found}),
        "derivative": boosted.method._supported,
        "said": [str(w.message)[:200] for w in said if "eq. 8" in str(w.message)],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _boosted(network: Any) -> tuple[Any, int]:
    """Boosted for the first size that it takes; where it takes none, what it says of its usual one."""
    import metadistiller
    from metadistiller.errors import UsageError

    usual = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-1]
    errors: dict[int, UsageError] = {}
    # Inception of torchvision does not say that it takes 299 pixels.
    for size in dict.fromkeys((*(s for s in SIZES if s <= usual), usual, 299)):
        try:
            boosted = metadistiller.boost(network, input_size=size, generator_width=16)
            # A network that shrinks its images to nothing has no batch statistics.
            if min(metadistiller.nn.stage_shapes(boosted.method.deployable(), (size, size))[-1][1:]) > 1:
                return boosted, size
        except UsageError as error:
            errors[size] = error
    if errors and usual in errors:
        raise errors[usual]
    return metadistiller.boost(network, input_size=usual, generator_width=16), usual


def apart(name: str, limit: float) -> dict[str, Any]:
    """`one` in a process of its own."""
    words = [sys.executable, "-W", "ignore", __file__, "--one", name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"passed": False, "reason": f"took longer than {limit:.0f} s"}
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    said = done.stderr.strip().splitlines()
    return {"passed": False, "reason": (said[-1] if said else f"ended with {done.returncode}")[:300]}


def here(name: str) -> dict[str, Any]:
    """`one` in this process, which starts once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return one(name)
    except Exception as error:
        return {"passed": False, "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:280]}"}


def shares(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {suite: {"passed": 0, "tried": 0} for suite in ("torchvision", "timm")}
    for name, result in results.items():
        suite = counts[name.partition("/")[0]]
        suite["tried"] += 1
        suite["passed"] += result["passed"]
    return counts


def markdown(results: dict[str, dict[str, Any]], versions: dict[str, str]) -> str:
    lines = ["# Which networks can be boosted", ""]
    lines += [
        "Each with random weights: boost, one student step, one meta step, unwrap; the same module, keys and logits.",
        f"Command: `python benchmarks/coverage.py --out coverage.json --markdown docs/coverage.md`; {_told(versions)}.",
        "",
        "| library | passed | tried | share |",
        "| --- | --- | --- | --- |",
    ]
    for suite, count in shares(results).items():
        share = f"{100 * count['passed'] / count['tried']:.1f} %" if count["tried"] else "–"
        lines.append(f"| {suite} | {count['passed']} | {count['tried']} | {share} |")
    failed = {name: result for name, result in results.items() if not result["passed"]}
    lines += ["", "## What failed", "", "| network | reason |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(result['reason'])} |" for name, result in sorted(failed.items())]
    lines += ["", "## What passed", "", "| network | stages | derivative | images |", "| --- | --- | --- | --- |"]
    for name, result in sorted(results.items()):
        if result["passed"]:
            stages = "; ".join(f"`{stage.split()[0]}` {stage.split()[1]}" for stage in result["stages"])
            lines.append(f"| {name} | {stages} | {result['derivative']} | {result['size']} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{library} {version}" for library, version in versions.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12 networks")
    parser.add_argument("--suite", choices=("torchvision", "timm"), help="one of the two")
    parser.add_argument("--only", default="", help="networks whose name has this in it; tried again where known")
    parser.add_argument("--out", help="the JSON file that results are written into as they come")
    parser.add_argument("--markdown", help="the page to write")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a network")
    parser.add_argument("--json", action="store_true", help="print the results before the shares")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
        return
    out = Path(given.out) if given.out else None
    results: dict[str, dict[str, Any]] = json.loads(out.read_text())["networks"] if out and out.exists() else {}
    versions = _versions()
    if given.quick:
        wanted = [*QUICK]
    else:
        wanted = [
            name for suite in ([given.suite] if given.suite else ["torchvision", "timm"]) for name in names(suite)
        ]
    by_name = defaultdict(dict, results)
    for name in wanted:
        if given.only not in name or (name in results and not given.only):
            continue
        by_name[name] = here(name) if given.quick else apart(name, given.limit)
        reason = "passed" if by_name[name]["passed"] else by_name[name]["reason"]
        print(f"{name}: {reason}", file=sys.stderr, flush=True)
        if out:
            out.write_text(json.dumps({"versions": versions, "networks": by_name}, indent=1) + "\n")
    if given.markdown:
        Path(given.markdown).write_text(markdown(by_name, versions))
    if given.json:
        print(json.dumps({"versions": versions, "networks": by_name}))
    print(json.dumps(shares(by_name)))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {library: version(library) for library in ("torch", "torchvision", "timm")}


if __name__ == "__main__":
    main()
