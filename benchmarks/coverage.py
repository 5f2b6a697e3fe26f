"""Which networks of torchvision and timm can be boosted: every classifier of the one, one of every module of the other.

Usage:
    python benchmarks/coverage.py [--suite torchvision|timm] [--only PATTERN] [--out FILE] [--markdown] [--quick] [--json]

Each network has random weights, 10 classes and a batch of 2 images, as small as it takes, and must

    be boosted          metadistiller.boost, with a generator of 16 channels
    answer as before    logits in evaluation mode, bit for bit, inside and by itself
    take a step         of SGD at 0.01: the loss is finite and parameters move
    take a meta step    of Adam on the generator: every gradient of it is there and finite
    come out again      unwrap gives the same object, the same keys and shapes, and no hook is left

in a process of its own with a limit in time and memory. Of timm's modules the smallest network is taken, as far as
names and parameter counts of a few show it. Results go to --out as they come, and networks that are there already are
not tried again, unless --only names them; so an interrupted run goes on with the same command.

--quick tries twelve of many kinds in under a minute; its last line is the share alone.
"""

import argparse
import fnmatch
import gc
import json
import re
import resource
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _coverage_page import page, summary
from _measure import environment, print_json, say
from torch import Tensor, nn

import metadistiller

LIMIT_SECONDS = 240
LIMIT_GIB = 16
CLASSES = 10
SIZES = (64, 96, 128, 160, 192, 224, 256, 299, 384)

# Large ones of these come last, so that an interrupted run has the most networks.
LARGE = re.compile(r"_128gf|vit_h_14|vit_l_|_32gf|efficientnet_v2_l|convnext_large|efficientnet_b7|wide_resnet101|101_64")
QUICK = (
    "torchvision/resnet18",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/googlenet",
    "torchvision/densenet121",
    "timm/convnext",
    "timm/vision_transformer",
    "timm/swin_transformer",
    "timm/mlp_mixer",
    "timm/ghostnet",
    "timm/levit",
)
# Words of timm's names, the smallest first.
_WORDS = ("zepto atto femto pico nano xxs xxsmall xs xtiny micro tiny t ti xsmall mini s0 a0 a1 b0 f0 l0 m0 0 minimal "
          "small s small_075 s1 m1 a2 b1 l1 1 b16 s12 s24").split()  # fmt: skip


# -- what is tried -----------------------------------------------------------------------------------------------------


def names(suite: str) -> list[str]:
    """SUITE/NAME: of torchvision each network, of timm each module."""
    if suite == "torchvision":
        import torchvision

        found = torchvision.models.list_models(module=torchvision.models)
    else:
        import timm

        found = timm.list_modules()
    return sorted((f"{suite}/{name}" for name in found), key=lambda name: bool(LARGE.search(name)))


def smallest(module: str, among: int = 5) -> str | None:
    """Of a module of timm's, by parameters: counted of the few whose names promise least."""
    import timm

    def promise(name: str) -> tuple[bool, int, int, str]:
        parts = re.split(r"[_.]", name)
        rank = min((_WORDS.index(part) for part in parts if part in _WORDS), default=len(_WORDS))
        digits = [int(number) for number in re.findall(r"\d+", re.sub(r"patch\d+|_\d\d\d$", "", name))]
        return name.startswith("test_"), rank, sum(digits), name

    counts = {}
    for name in sorted(timm.list_models(module=module), key=promise)[:among]:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=CLASSES)
        # Some make tensors of values; then the name must do.
        except Exception:
            counts[name] = float("inf")
            continue
        if classifies(network):
            counts[name] = sum(p.numel() for p in network.parameters())
    return min(counts, key=lambda name: counts[name]) if counts else None


def classifies(network: nn.Module) -> bool:
    """Whether a weight has a row for each class."""
    return any(p.ndim > 1 and CLASSES in p.shape[:2] for p in network.parameters())


def made(name: str) -> Iterator[tuple[nn.Module, int, str]]:
    """The network, a size of image that it may take, and timm's name of it; from the smallest size on."""
    suite, _, architecture = name.partition("/")
    if suite == "torchvision":
        import torchvision

        network = torchvision.models.get_model(architecture, weights=None, num_classes=CLASSES, **_more(architecture))
        fixed = getattr(network, "image_size", None)
        for size in (fixed,) if fixed else SIZES:
            yield network, size, architecture
        return
    import timm

    found = smallest(architecture)
    if found is None:
        raise LookupError("no network of this module has a classifier")
    network = timm.create_model(found, pretrained=False, num_classes=CLASSES)
    native = max(network.pretrained_cfg["input_size"][1:])
    fixed = network.pretrained_cfg.get("fixed_input_size", False)
    for size in [native] if fixed else [*(size for size in SIZES if size < native), native]:
        yield network, size, found


def _more(architecture: str) -> dict[str, Any]:
    """Initial weights that are drawn slowly (truncated normal of scipy) are left out."""
    return {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}


# -- one network -------------------------------------------------------------------------------------------------------


class Failure(Exception):
    """A network does something else than it must."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Failure(what)


def attempt(name: str) -> dict[str, Any]:
    """All of one network, at the first size that it takes."""
    began = time.perf_counter()
    result: dict[str, Any] = {"name": name, "network": name.partition("/")[2], "passed": False}
    first_error: str | None = None
    try:
        for network, size, architecture in made(name):
            result["network"] = architecture
            result["parameters"] = sum(p.numel() for p in network.parameters())
            result["size"] = size
            try:
                torch.manual_seed(0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result |= boosted_once(network, size)
                result["passed"] = True
                break
            # Whatever a network does wrong is the result; the size that it was made for comes last and says why.
            except Exception as error:
                first_error = said(error)
                say("".join(traceback.format_exception(error)[-3:]))
            gc.collect()
    except Exception as error:
        first_error = said(error)
    if not result["passed"]:
        result["reason"] = first_error
    result["seconds"] = round(time.perf_counter() - began, 1)
    return result


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"[:300]


def boosted_once(network: nn.Module, size: int) -> dict[str, Any]:
    images, heldout = torch.randn(2, 2, 3, size, size)
    labels = torch.tensor([1, 7])
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    hooks = hook_count(network)
    before = answer(network, images)
    boosted = metadistiller.boost(network, input_size=size, generator_width=16)
    inside = answer(boosted, images)
    require(torch.equal(before, inside), "logits inside differ from those before")
    require(torch.equal(before, answer(network, images)), "logits of the network differ from those before")
    boosted.train()

    weights = list(boosted.student_parameters())
    kept = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.SGD(weights, lr=0.01)
    loss = boosted.loss(images, labels)
    require(bool(loss.isfinite()), f"the loss is {loss.item()}")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    moved = sum(not torch.equal(old, new) for old, new in zip(kept, weights, strict=True))
    require(moved > 0, "no parameter moves")
    del kept

    generator = list(boosted.generator_parameters())
    adam = torch.optim.Adam(generator, lr=0.001)
    boosted.meta_loss((images, labels), (heldout, labels.flip(0)), inner_lr=0.01).backward()
    for gradient in (weight.grad for weight in generator):
        require(gradient is not None, "a parameter of the generator has no gradient")
        require(gradient is None or bool(gradient.isfinite().all()), "a gradient of the generator is not finite")
    adam.step()

    plain = boosted.unwrap()
    require(plain is network, "unwrap gives another object")
    now = {key: value.shape for key, value in plain.state_dict().items()}
    require(now == shapes, "keys or shapes have changed")
    require(hook_count(network) == hooks, "hooks are left")
    backbone: Any = boosted.method.deployable()
    with torch.no_grad():
        maps = backbone.eval().stages(images)
    stages = [
        [stage.name, stage.layout, list(found.shape[1:])] for stage, found in zip(backbone.found, maps, strict=True)
    ]
    return {"stages": stages, "derivative": boosted.method._supported, "moved": f"{moved} of {len(weights)}"}  # type: ignore[attr-defined]


def answer(network: nn.Module, images: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        given: Tensor = network(images)
    return given


def hook_count(network: nn.Module) -> int:
    return sum(
        len(getattr(module, kind))
        for module in network.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


# -- all ---------------------------------------------------------------------------------------------------------------


def apart(name: str) -> dict[str, Any]:
    """`attempt` in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    began = time.perf_counter()
    failed = {"name": name, "network": name.partition("/")[2], "passed": False}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return failed | {"reason": f"not done after {LIMIT_SECONDS} s", "seconds": LIMIT_SECONDS}
    lines = ran.stdout.strip().splitlines()
    if ran.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = (ran.stderr.strip().splitlines() or ["nothing said"])[-1]
    seconds = round(time.perf_counter() - began, 1)
    return failed | {"reason": f"exit code {ran.returncode}: {last}"[:300], "seconds": seconds}


def run_all(wanted: Sequence[str], kept: dict[str, dict[str, Any]], out: Path | None) -> None:
    """Fills `kept`, and the file after each network."""
    for count, name in enumerate(wanted, start=1):
        found = kept[name] = apart(name)
        outcome = f"passed, {len(found['stages'])} stages" if found["passed"] else f"failed: {found['reason']}"
        say(f"{count} of {len(wanted)}  {name} ({found['network']})  {outcome}  {found['seconds']} s")
        if out is not None:
            save(out, kept)


def save(out: Path, kept: Mapping[str, Mapping[str, Any]]) -> None:
    rows = ",\n".join(json.dumps(kept[name]) for name in sorted(kept))
    head = json.dumps({"command": "python benchmarks/coverage.py --out FILE", **versions(), **described(kept)})
    written = out.with_name(out.name + ".part")
    written.write_text(f'{head[:-1]}, "networks": [\n{rows}\n]}}\n', encoding="utf-8")
    written.replace(out)


def load(out: Path | None) -> dict[str, dict[str, Any]]:
    if out is None or not out.exists():
        return {}
    return {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8"))["networks"]}


def described(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"summary": summary(kept), "environment": environment(torch.device("cpu"))}


def versions() -> dict[str, Any]:
    import timm
    import torchvision

    return {"versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("torchvision", "timm"), help="of one library only")
    parser.add_argument("--only", metavar="PATTERN", help="networks such as timm/conv*; tried again where they were")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results, and where to go on")
    parser.add_argument("--markdown", action="store_true", help="write docs/coverage.md from --out; tries nothing")
    parser.add_argument("--quick", action="store_true", help="twelve networks, under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        # A network that takes more is stopped, not the machine.
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * 2**30,) * 2)
        print_json(attempt(given.one))
        return
    kept = load(given.out)
    suites = (given.suite,) if given.suite else ("torchvision", "timm")
    known = [name for suite in suites for name in names(suite)]
    if given.markdown:
        tried = sum(map(len, (names("torchvision"), names("timm"))))
        target = Path(__file__).parents[1] / "docs" / "coverage.md"
        target.write_text(page(kept, tried, versions()["versions"], environment(torch.device("cpu"))), encoding="utf-8")
        return
    wanted = [name for name in (QUICK if given.quick else known) if name.partition("/")[0] in suites]
    if given.only:
        wanted = [name for name in wanted if fnmatch.fnmatch(name, given.only) or given.only in name]
    else:
        wanted = [name for name in wanted if name not in kept]
    # The largest of both come last.
    run_all(sorted(wanted, key=lambda name: bool(LARGE.search(name))), kept, given.out)
    if given.quick:
        print_json(summary(kept))
    elif given.json:
        print_json({**versions(), **described(kept), "networks": list(kept.values())})


if __name__ == "__main__":
    main()
