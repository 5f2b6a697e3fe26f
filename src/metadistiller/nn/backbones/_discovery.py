"""Where the stages of a network end, found by running a copy of it once.

Every module that is called once and gives a feature map is a candidate: (N, D, H, W), (N, H, W, D), or tokens that
lie on a grid. A stage ends with the last map before each down-sampling, the deepest four of them. Where a network says
itself where its features are (timm's feature_info), only those modules are candidates. Where maps do not shrink (ViT,
MLP-Mixer), the blocks of the longest row of equal maps are divided evenly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import StageError, UnknownName, UsageError
from ._phantom import on_phantom
from ._taps import Layout, Stage, first_tensor, logits_of

Modules: TypeAlias = Mapping[str, nn.Module]  # of a network, as named_modules has them; itself is ""

MOST = 4  # stages; the paper's networks have three or four
_PREFIXES = range(17)  # tokens before those of the map: class, distillation, registers
_SHORTCUTS = ("downsample", "shortcut")  # beside a block; one that pools to a pixel is not the head's pooling
_ROWS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Candidate(NamedTuple):
    """A module that gives a map.

    Attributes:
        stage: as it would be one.
        place: when it was done, counted in module calls.
        channels, height, width: of the map.
    """

    stage: Stage
    place: int
    channels: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def area(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} x {self.height} x {self.width})"


@dataclass(frozen=True)
class Found:
    """What a run of a network has shown.

    Attributes:
        stages: where they end; the last is F_K.
        candidates: every module that a stage may end with, in the order of the run.
        num_classes: C.
        total_stride: see Backbone.
    """

    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    num_classes: int
    total_stride: int


def discover(
    network: nn.Module, *, size: tuple[int, int], in_channels: int = 3, names: Sequence[str] | None = None
) -> Found:
    """Stages of an image classifier.

    Args:
        size: height and width of the images it is run with.
        names: of the modules that the stages end with; None finds them.
    Raises: StageError where the network is no image classifier or has fewer than two stages; UnknownName for a module
        that is not there; ConfigError where it has several outputs.
    """
    _check_built(network)
    parts: Modules = dict(network.named_modules())
    for name in names or ():
        if name not in parts or not name:
            raise UnknownName("module", name, [known for known in parts if known])
    trace = _traced(network, size, in_channels)
    candidates = list(_candidates(parts, trace, size))
    if names is None:
        own = _told_by_the_network(network, candidates)
        chosen = _chosen(parts, own) if len(own) > 1 else []
        if len(chosen) < 2:
            chosen = _chosen(parts, candidates)
    else:
        chosen = _named(names, candidates, trace)
    if len(chosen) < 2:
        listed = ", ".join(map(str, candidates[-20:])) or "no module gives a feature map"
        raise StageError(
            f"{len(chosen)} stage found in {type(network).__name__} for images of {size[0]}x{size[1]} pixels, 2 or "
            f"more are needed; name the modules that stages end with (stages), out of: {listed}"
        )
    logits = trace.logits
    if logits.ndim != 2 or not _has_head(parts, trace, chosen[-1], logits.shape[1]):
        raise StageError(
            f"{type(network).__name__} gives {tuple(logits.shape)} for 2 images and has no classifier head after "
            f"{chosen[-1].name}; give it a last layer with one output a class (timm: num_classes=N)"
        )
    stages = tuple(candidate.stage for candidate in chosen)
    # A head may pool once more (VGG's) before it takes the mean.
    least = min((c for c in candidates if c.place >= chosen[-1].place), key=lambda c: c.area)
    stride = max(1, round(min(size) / min(least.height, least.width)))
    return Found(stages, tuple(candidates), logits.shape[1], stride)


def _check_built(network: nn.Module) -> None:
    for kind in (network.named_parameters(), network.named_buffers()):
        for name, value in kind:
            if is_lazy(value):
                raise StageError(
                    f"{name} of {type(network).__name__} is not built yet (a lazy layer); run the network once on "
                    "images of its size first"
                )
    if isinstance(network, torch._dynamo.OptimizedModule):
        raise StageError("the network is compiled already; give the plain one, and compile the boosted student")


# -- one run ----------------------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    name: str
    place: int
    output: Tensor
    overwritten: bool


class _Trace(NamedTuple):
    """calls: of the modules that are called once, by the time they were done. repeated: names of the others."""

    calls: list[_Call]
    repeated: set[str]
    logits: Tensor


def _traced(network: nn.Module, size: tuple[int, int], in_channels: int) -> _Trace:
    try:
        return on_phantom(network, _trace, in_channels, size)
    except UsageError:
        raise
    # Anything may go wrong in a stranger's forward; what did is in the message.
    except Exception as error:
        shape = (2, in_channels, *size)
        raise StageError(
            f"{type(network).__name__} does not answer images of shape {shape}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give the input_size that it takes; it must be a network of images"
        ) from error


def _trace(copied: nn.Module, images: Tensor) -> _Trace:
    # As it is in training: layers that are there only then, and writing in place.
    copied.train()
    seen: list[tuple[str, int, Tensor, int]] = []
    times: Counter[str] = Counter()
    place = 0
    names = {id(module): name for name, module in copied.named_modules() if name}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal place
        place += 1
        name = names[id(module)]
        times[name] += 1
        value = first_tensor(output)
        if value is not None:
            seen.append((name, place, value, value._version))

    for module in copied.modules():
        if id(module) in names:
            module.register_forward_hook(note)
    logits = logits_of(copied(images))
    calls = [
        _Call(name, when, value, value._version != version) for name, when, value, version in seen if times[name] == 1
    ]
    return _Trace(calls, {name for name, count in times.items() if count > 1}, logits)


# -- candidates -------------------------------------------------------------------------------------------------------


def _candidates(parts: Modules, trace: _Trace, size: tuple[int, int]) -> Iterable[Candidate]:
    inner = {name for name, module in parts.items() if "attention" in type(module).__name__.lower()}
    pooled, head = False, _head_place(parts, trace)
    known_prefix = getattr(parts[""], "num_prefix_tokens", None)
    prefixes = _PREFIXES if not isinstance(known_prefix, int) else (known_prefix, 0)
    shortcuts = {name for name in parts if name.rpartition(".")[2] in _SHORTCUTS}
    for call in trace.calls:
        # Weights of attention have the form of a map, and are none; the head's pooling and logits are its own.
        if any(call.name.startswith(f"{name}.") for name in inner if name) or call.place >= head:
            continue
        if isinstance(parts[call.name], nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            pooled = pooled or call.output.shape[2:] == (1, 1)
            continue
        found = _as_map(call.output, size, prefixes)
        if found is None:
            continue
        layout, prefix, (channels, height, width) = found
        if (height, width) == (1, 1):
            # What a pooling layer leaves is the head's; a last map of one pixel comes before it.
            within = any(name in shortcuts for name in _ancestors(call.name))
            pooled = pooled or ("pool" in type(parts[call.name]).__name__.lower() and not within)
            if pooled:
                continue
        yield Candidate(Stage(call.name, layout, prefix, call.overwritten), call.place, channels, height, width)


def _head_place(parts: Modules, trace: _Trace) -> float:
    """When the layer was done whose weights have a row for each class, where the last layer with parameters is such."""
    for call in reversed(trace.calls):
        own = list(parts[call.name].parameters(recurse=False))
        if own:
            rows = [p.shape[0] for p in own if p.ndim > 1]
            return call.place if trace.logits.ndim > 1 and trace.logits.shape[1] in rows else float("inf")
    return float("inf")


def _as_map(
    x: Tensor, size: tuple[int, int], prefixes: Iterable[int]
) -> tuple[Layout, int, tuple[int, int, int]] | None:
    """Layout, tokens before the map, and its shape; None where it is no map of the images."""
    if len(x) != 2 or not x.is_floating_point():
        return None
    if x.ndim == 4:
        a, b, c = x.shape[1:]
        if _fits(b, c, size):
            return "maps", 0, (a, b, c)
        if _fits(a, b, size):
            return "channels_last", 0, (c, a, b)
    if x.ndim == 3:
        for prefix in prefixes:
            count = x.shape[1] - prefix
            rows = round((count * size[0] / size[1]) ** 0.5) if count > 1 else 0
            if rows > 1 and rows * (count // rows) == count and _fits(rows, count // rows, size):
                return "tokens", prefix, (x.shape[2], rows, count // rows)
    return None


def _fits(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether a map of these sides is one of an image of `size`, at least halved."""
    if not (0 < height <= (size[0] + 1) // 2 + 2 and 0 < width <= (size[1] + 1) // 2 + 2):
        return False
    # Rounding at each halving leaves a side one off.
    return abs(height * size[1] - width * size[0]) <= max(size)


# -- the choice -------------------------------------------------------------------------------------------------------


def _told_by_the_network(network: nn.Module, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that timm's networks name as their features."""
    info = getattr(network, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, list | tuple):
        return []
    told = {entry.get("module") for entry in entries if isinstance(entry, dict)}
    return [candidate for candidate in candidates if candidate.name in told]


def _chosen(parts: Modules, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The last map before each down-sampling; fewer than three have the longest row of blocks divided among them."""
    between = _between_blocks(parts, candidates)
    ends = _ends(between)
    if len(ends) < 2:
        ends = _ends(candidates)
    if len(ends) >= 3:
        return ends[-MOST:]
    rows = [row for row in _rows(parts, candidates) if len(row) > 1]
    if len(ends) > 1:
        # A convolution, its normalisation and its activation are no blocks.
        rows = [row for row in rows if all(any(parts[c.name].children()) for c in row)]
    if not rows:
        return ends
    longest = max(rows, key=lambda row: (len(row), -row[0].name.count(".")))
    area = longest[0].area
    others = [end for end in ends if end.area != area]
    room = min(MOST - len(others), len(longest))
    divided = [longest[len(longest) * (k + 1) // room - 1] for k in range(room)]
    return sorted([*others, *divided], key=lambda candidate: candidate.place)


def _ends(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The last candidate of each area, as long as areas shrink in time."""
    last = {candidate.area: candidate for candidate in candidates}
    ends: list[Candidate] = []
    for _, candidate in sorted(last.items(), reverse=True):
        # A smaller map that came before was a branch's: squeezing, or an auxiliary head.
        if not ends or candidate.place > ends[-1].place:
            ends.append(candidate)
    return ends


def _between_blocks(parts: Modules, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without what lies inside a block that down-samples: a stage ends before it, not within."""
    areas = {candidate.name: candidate.area for candidate in candidates}
    inside: defaultdict[str, set[int]] = defaultdict(set)
    for candidate in candidates:
        for block in _ancestors(candidate.name):
            # One pixel is squeezing, not a resolution.
            inside[block] |= {candidate.area} - {1}

    def within(candidate: Candidate) -> bool:
        return any(
            areas.get(block, candidate.area) < candidate.area and len(inside[block]) <= 2
            for block in _ancestors(candidate.name)
            if not isinstance(parts[block], _ROWS)
        )

    return [candidate for candidate in candidates if not within(candidate)]


def _ancestors(name: str) -> Iterable[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _rows(parts: Modules, candidates: Sequence[Candidate]) -> Iterable[list[Candidate]]:
    """Equal maps of the children of one row of layers, each a run without a gap."""
    children: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        children[candidate.name.rpartition(".")[0]].append(candidate)
    for parent, found in children.items():
        if isinstance(parts[parent], _ROWS):
            for _, row in groupby(found, key=lambda c: (c.channels, c.height, c.width)):
                yield list(row)


def _named(names: Sequence[str], candidates: Sequence[Candidate], trace: _Trace) -> list[Candidate]:
    known = {candidate.name: candidate for candidate in candidates}
    for name in names:
        if name in trace.repeated:
            raise StageError(
                f"module {name!r} is called several times in a run; a stage ends with one that is called once"
            )
        if name not in known:
            raise StageError(f"module {name!r} gives no feature map; take of: {', '.join(map(str, candidates[-20:]))}")
    chosen = [known[name] for name in names]
    places = [candidate.place for candidate in chosen]
    if places != sorted(set(places)):
        right = sorted(chosen, key=lambda candidate: candidate.place)
        raise StageError(
            f"stages are {', '.join(names)}, but the network runs them as {', '.join(c.name for c in right)}; "
            "name each once, in that order"
        )
    return chosen


def _has_head(parts: Modules, trace: _Trace, last: Candidate, num_classes: int) -> bool:
    """Whether a layer with a weight row for each class comes after F_K."""
    places = {call.name: call.place for call in trace.calls}
    for name, module in parts.items():
        rows = any(p.ndim > 1 and num_classes in p.shape[:2] for p in module.parameters(recurse=False))
        # One that is called several times, or as a function, has no place; it is then given the benefit of the doubt.
        if rows and places.get(name, last.place + 1) > last.place:
            return True
    return False
