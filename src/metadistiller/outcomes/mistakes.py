"""The test images that the final output is most certain of and wrong about: mistakes.json of a run folder."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..records import read_json, write_json
from . import exit_names
from .policy import number

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an output says of an image: the index of a class, and its probability."""

    answer: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image whose final answer is wrong.

    Attributes:
        png: base64.
        index: its place in the test set.
        label: index of the true class.
        label_share: the probability that the final output has for it.
        final: the wrong answer.
        exits: of each early exit, shallow first; empty for a method without.
    """

    png: str
    index: int
    label: int
    label_share: float
    final: Answer
    exits: tuple[Answer, ...]

    @property
    def named_exits(self) -> list[tuple[str, Answer]]:
        """`exits`, each with its name."""
        return list(zip(exit_names(len(self.exits)), self.exits, strict=True))


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """All of mistakes.json.

    Attributes:
        classes: C names, as they are.
        count: test images that were looked at.
        wrong: how many of them the final output puts wrong.
        images: the most certain first.
    """

    classes: tuple[str, ...]
    count: int
    wrong: int
    images: tuple[Mistake, ...]


def write(mistakes: Mistakes, path: Path) -> None:
    write_json(
        path,
        {
            "classes": mistakes.classes,
            "count": mistakes.count,
            "wrong": mistakes.wrong,
            "images": [
                {
                    "png": each.png,
                    "index": each.index,
                    "label": each.label,
                    **asdict(each.final),
                    "label_share": each.label_share,
                    "exits": [asdict(answer) for answer in each.exits],
                }
                for each in mistakes.images
            ],
        },
    )


def read(path: Path, *, num_classes: int) -> Mistakes:
    """What `write` wrote.

    Args:
        num_classes: C of the run.
    Raises: CheckpointError where it is missing, damaged, of other classes, or edited into what cannot be meant.
    """
    values = read_json(path)
    try:
        found = Mistakes(
            classes=tuple(map(str, values["classes"])),
            count=_whole(values["count"]),
            wrong=_whole(values["wrong"]),
            images=tuple(_mistake(image, num_classes) for image in values["images"]),
        )
        if len(found.classes) != num_classes:
            raise ValueError(f"{len(found.classes)} classes, the run has {num_classes}")
        if not len(found.images) <= found.wrong <= found.count:
            raise ValueError(f"{len(found.images)} images of {found.wrong} wrong ones of {found.count}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path} does not hold what a finished run writes ({type(error).__name__}: {error}); "
            "it was damaged or edited, so bring it back or train anew"
        ) from None
    return found


def _mistake(values: Mapping[str, Any], num_classes: int) -> Mistake:
    label, final = _whole(values["label"], num_classes), _answer(values, num_classes)
    if final.answer == label:
        raise ValueError(f"the answer {label} is the label")
    return Mistake(
        png=checked_png(values["png"]),
        index=_whole(values["index"]),
        label=label,
        label_share=_share(values["label_share"]),
        final=final,
        exits=tuple(_answer(answer, num_classes) for answer in values["exits"]),
    )


def _answer(values: Mapping[str, Any], num_classes: int) -> Answer:
    return Answer(answer=_whole(values["answer"], num_classes), confidence=_share(values["confidence"]))


def _whole(value: Any, end: int | None = None) -> int:
    """A whole number from 0, below `end`. Raises: ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (end is not None and value >= end):
        raise ValueError(f"{value!r} where a whole number from 0{'' if end is None else f' to {end - 1}'} should be")
    return value


def _share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError(f"{value!r} where a probability should be")
    return float(value)


def checked_png(text: Any) -> str:
    """The base64 of a PNG file, spelt in its one way, so that it is text that a page can hold.

    Raises: TypeError, ValueError where it is none.
    """
    png = base64.b64decode(text, validate=True)
    if not png.startswith(PNG_SIGNATURE):
        raise ValueError("an image is not PNG")
    return base64.b64encode(png).decode()
