"""Whether a data set can be trained on: every image is decoded once, and what is wrong is named by its path."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from PIL import Image

from .building import load_data
from .config import Choice
from .data import LabelledImages, Listing, Look, Part, look_at, look_of, new_threads, unread
from .errors import DataError
from .lookup import FAMILIES, find
from .settings import parse

_UNBALANCED = 3  # times the images of the smallest class; above, training and accuracy depend on it visibly
_AT_A_TIME = 1024  # images that threads are given; a million at once would be a million waiting answers

Labels: TypeAlias = Sequence[int]
Looks: TypeAlias = Iterator[tuple[str, "Look | str"]]  # an image's name, and what it is or why it cannot be read


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: layout, unreadable, leak, contradiction, repeated, unbalanced, untested, small, uniform or unread.
        text: what it is, in a sentence.
        paths: the images or files that it is about.
    """

    kind: str
    text: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartSummary:
    """What was counted of one part.

    Attributes:
        images: that are there.
        readable: of them.
        per_class: images of each class, by its name.
        width, height: smallest, median and largest, in pixels, of the readable ones.
        forms: format and mode of the files ("JPEG RGB") -> images.
    """

    images: int
    readable: int
    per_class: Mapping[str, int]
    width: tuple[int, float, int] | None
    height: tuple[int, float, int] | None
    forms: Mapping[str, int]


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        data: the name of the source.
        source: where the images came from.
        parts: "train" and "test"; empty where there was no finding out.
        problems: what makes the data unfit, or its accuracy untrue.
        notes: what is good to know.
    """

    data: str
    source: str
    parts: Mapping[str, PartSummary]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"sound": self.sound, **asdict(self)}


def check(data: str | Path | Choice) -> Checked:
    """Look at every image of a data set, training and test, once.

    Two images are the same where their upright pixels are; copies that were saved again with loss are not found.

    Args:
        data: a name or a path, as `--data` takes them; or a Choice with options.
    Raises: UnknownName, ConfigError. What is wrong with the data is no error but part of the answer.
    """
    chosen = data if isinstance(data, Choice) else parse([f"--data={data}"], command="check").config.data
    member = find(*FAMILIES["data"], chosen.name)
    options = member.configure(chosen.options)
    try:
        if member.listing is None:
            return _resident(chosen)
        if hasattr(options, "on_bad_image"):
            # So that each file that is missing is named, not the first alone.
            options = replace(options, on_bad_image="skip")
        listing: Listing = member.listing(options)
    except DataError as error:
        return Checked(chosen.name, str(chosen.options.get("root")), {}, (Finding("layout", str(error)),), ())
    look = partial(look_at, max_pixels=options.max_pixels)
    parts = {
        name: (part.labels, _files(part, look, getattr(options, "workers", None)))
        for name, part in (("train", listing.train), ("test", listing.test))
    }
    passed_over = unread(listing.folders)
    return _checked(chosen.name, listing.source, listing.classes, parts, passed_over, shown=options.size)


def _resident(chosen: Choice) -> Checked:
    """Of a source whose images are no files of their own."""
    dataset = load_data(chosen)
    parts = {
        name: (images.labels.tolist(), _pixels(images, name))
        for name, images in (("train", dataset.train), ("test", dataset.test))
    }
    return _checked(chosen.name, dataset.source, dataset.classes, parts, [], shown=0)


def _pixels(images: LabelledImages, name: str) -> Looks:
    number = 0
    for pixels, _ in images.batches(_AT_A_TIME):
        for image in pixels.permute(0, 2, 3, 1).numpy():
            yield f"{name} image {number}", look_of(image, "RGB")
            number += 1


def _files(part: Part, look: Callable[..., Look], workers: int | None) -> Looks:
    def seen(name: str) -> tuple[str, Look | str]:
        try:
            return name, look(part.opened(name))
        # Damaged bytes make the decoders raise nearly anything, so nothing narrower would do.
        except Exception as error:
            return name, " ".join(f"{type(error).__name__}: {error}".split())

    names = iter(part.paths)
    with warnings.catch_warnings(), new_threads(workers) as threads:
        # Pillow warns of damage that it has got over, which training does as well.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        while some := list(islice(names, _AT_A_TIME)):
            yield from threads.map(seen, some)


# -- what it comes to -------------------------------------------------------------------------------------------------


def _checked(
    name: str,
    source: str,
    classes: Sequence[str],
    parts: Mapping[str, tuple[Labels, Looks]],
    passed_over: Sequence[str],
    *,
    shown: int,
) -> Checked:
    """Args: shown: pixels of a side of what a network is shown, for images that are resized; else 0."""
    summaries = {}
    alike: defaultdict[bytes, list[tuple[str, str, int]]] = defaultdict(list)
    unreadable: list[Finding] = []
    small: list[str] = []
    uniform: list[str] = []
    for part, (labels, looks) in parts.items():
        sizes: list[tuple[int, int]] = []
        forms: Counter[str] = Counter()
        for label, (path, look) in zip(labels, looks, strict=True):
            if isinstance(look, str):
                unreadable.append(Finding("unreadable", f"{path} ({look})", (path,)))
                continue
            sizes.append(look.size)
            forms[look.form] += 1
            alike[look.digest].append((part, path, label))
            small += [path] if min(look.size) < shown else []
            uniform += [path] if look.uniform else []
        summaries[part] = _summary(labels, sizes, forms, classes)
    train, test = summaries["train"], summaries["test"]
    groups = [group for group in alike.values() if len(group) > 1]
    problems = [*unreadable, *_conflicts(groups, classes)]
    untested = [each for each, count in test.per_class.items() if count == 0]
    notes = [
        *_repeated(groups),
        *_unbalanced(train),
        *_note("untested", f"{len(untested)} classes have no test image; accuracy says nothing of them", untested),
        *_note("small", f"{len(small)} images are smaller than the {shown} pixels that are shown of them", small),
        *_note("uniform", f"{len(uniform)} images are of one colour all over", uniform),
        *_note("unread", f"{len(passed_over)} files in class folders are of no kind that is read", passed_over),
    ]
    return Checked(name, source, summaries, tuple(problems), tuple(notes))


def _summary(
    labels: Labels, sizes: Sequence[tuple[int, int]], forms: Counter[str], classes: Sequence[str]
) -> PartSummary:
    counts = Counter(labels)
    width, height = (_spread([size[axis] for size in sizes]) for axis in (0, 1))
    per_class = {each: counts[label] for label, each in enumerate(classes)}
    return PartSummary(len(labels), len(sizes), per_class, width, height, dict(forms.most_common()))


def _spread(values: Sequence[int]) -> tuple[int, float, int] | None:
    return (min(values), median(values), max(values)) if values else None


Group: TypeAlias = Sequence[tuple[str, str, int]]  # images with the same pixels: part, path and label of each


def _conflicts(groups: Sequence[Group], classes: Sequence[str]) -> Iterator[Finding]:
    """What two copies of an image must not be: one in training and one in test, or of different classes."""
    for group in groups:
        across = len({part for part, _, _ in group}) > 1
        differ = len({label for _, _, label in group}) > 1
        if across or differ:
            named = " = ".join(f"{path} ({classes[label]})" if differ else path for _, path, label in group)
            kind, what = ("leak", "in training and in test") if across else ("contradiction", "in different classes")
            yield Finding(kind, f"the same image {what}: {named}", tuple(path for _, path, _ in group))


def _repeated(groups: Sequence[Group]) -> Iterator[Finding]:
    for part in ("train", "test"):
        again = [[path for where, path, _ in group if where == part] for group in groups]
        again = [paths for paths in again if len(paths) > 1]
        extra = sum(len(paths) - 1 for paths in again)
        yield from _note(
            "repeated", f"{extra} {part} images are there before", [path for paths in again for path in paths]
        )


def _unbalanced(train: PartSummary) -> Iterator[Finding]:
    fewest = min(train.per_class, key=train.per_class.__getitem__)
    most = max(train.per_class, key=train.per_class.__getitem__)
    low, high = train.per_class[fewest], train.per_class[most]
    if high > _UNBALANCED * low:
        yield Finding(
            "unbalanced",
            f"class {most!r} has {high} training images, {fewest!r} has {low}; --class_weights inverse or "
            "--sampling balanced makes up for it",
        )


def _note(kind: str, text: str, paths: Sequence[str]) -> list[Finding]:
    return [Finding(kind, text, tuple(paths))] if paths else []
