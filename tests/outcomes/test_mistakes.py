"""mistakes.json: what is written is what is read, and what cannot be meant is refused by name."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from metadistiller.errors import CheckpointError
from metadistiller.outcomes import mistakes
from metadistiller.outcomes.mistakes import PNG_SIGNATURE, Answer, Mistake, Mistakes

FOUND = Mistakes(
    classes=("a", "b", "\u202ec"),
    count=9,
    wrong=2,
    images=(
        Mistake(
            png=base64.b64encode(PNG_SIGNATURE + b"...").decode(),
            index=4,
            label=2,
            label_share=0.125,
            final=Answer(answer=0, confidence=0.75),
            exits=(Answer(answer=2, confidence=1.0), Answer(answer=1, confidence=0.5)),
        ),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "mistakes.json"
    mistakes.write(FOUND, found)
    return found


def test_what_is_written_is_read(path: Path) -> None:
    assert mistakes.read(path, num_classes=3) == FOUND


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mistakes\.json is not there"):
        mistakes.read(tmp_path / "mistakes.json", num_classes=3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ["a", "b"]}, "2 classes, the run has 3"),
        ({"classes": None}, "TypeError"),
        ({"count": 1}, "1 images of 2 wrong ones of 1"),
        ({"wrong": 0}, "1 images of 0 wrong ones of 9"),
        ({"wrong": 2.0}, "2.0 where a whole number from 0 should be"),
        ({"count": True}, "True where"),
        ({"images": {"png": ""}}, "TypeError"),
    ],
)
def test_what_cannot_be_meant_is_said(changed: dict[str, Any], said: str, path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(CheckpointError, match=rf"mistakes\.json does not hold .*{re.escape(said)}.*bring it back"):
        mistakes.read(path, num_classes=3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"png": "AAAA"}, "an image is not PNG"),
        ({"png": "<svg>"}, "base64"),
        ({"png": 3}, "TypeError"),
        ({"label": 3}, "3 where a whole number from 0 to 2 should be"),
        ({"label": 0}, "the answer 0 is the label"),
        ({"answer": -1}, "-1 where"),
        ({"answer": "0"}, "'0' where"),
        ({"index": -1}, "-1 where a whole number from 0 should be"),
        ({"confidence": 1.5}, "1.5 where a probability should be"),
        ({"confidence": float("nan")}, "nan where"),
        ({"confidence": 10**400}, "OverflowError"),
        ({"label_share": -0.1}, "-0.1 where"),
        ({"exits": [{"answer": 1}]}, "KeyError: 'confidence'"),
        ({"exits": [{"answer": 3, "confidence": 1}]}, "3 where"),
    ],
)
def test_a_mistake_that_cannot_be_one_is_said(changed: dict[str, Any], said: str, path: Path) -> None:
    values = json.loads(path.read_text())
    values["images"][0] |= changed
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"mistakes\.json does not hold .*{re.escape(said)}"):
        mistakes.read(path, num_classes=3)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, "\xff"])
def test_what_is_no_json_is_said(text: str, path: Path) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"mistakes\.json is not JSON"):
        mistakes.read(path, num_classes=3)
