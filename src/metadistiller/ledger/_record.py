"""One record of the ledger: its fields, its id, and the check that it can be one."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import LedgerError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the seconds and the last bits of a run depend on, as `environment` in events.jsonl has it."""

    device: str
    torch: str
    threads: int
    precision: str


@dataclass(frozen=True, kw_only=True)
class TeacherRun:
    """The run that trained a record's teacher: network, epochs, seconds, percent of its final output, and its device as
    `environment` in events.jsonl has it, or None where that was not recorded.
    """

    network: str
    epochs: int
    seconds: float
    final: float
    device: str | None


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a run was trained and tested on, as `images` in events.jsonl has it: how many images of each part, how many
    classes, and the SHA-256 of each part's classes, labels and names of files.
    """

    train: int
    test: int
    classes: int
    train_sha256: str
    test_sha256: str


@dataclass(frozen=True, kw_only=True)
class TargetsAt:
    """What the soft targets were in one epoch, as its row of results.csv has it; a tuple has T_1 to T_{K-1}.

    Attributes:
        epoch: from 0.
        generator_steps: updates that the generator has had up to and including this epoch; None where that cannot be
            told.
        accuracy: percent; how often the largest probability of T_k is the label's, on training images.
        entropy: nats.
        confidence: 0 to 1; the largest probability.
        heldout_loss: nats; the loss of eq. 8, of the latest epoch up to this one that has it; None before the first.
        target_gain, label_gain: nats, likewise (meta.Judged).
        target_alignment, label_alignment: -1 to 1, likewise.
    """

    epoch: int
    generator_steps: int | None
    accuracy: tuple[float, ...]
    entropy: tuple[float, ...]
    confidence: tuple[float, ...]
    heldout_loss: float | None
    target_gain: tuple[float, ...] | None
    label_gain: tuple[float, ...] | None
    target_alignment: tuple[float, ...] | None
    label_alignment: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        recipe: what it is a run of.
        network, method, data: names.
        seed: of the run.
        exits: percent; top-1 of the early exits on the test set after the last epoch, shallow first.
        final, ensemble: percent; the same of the final output and of the ensemble.
        epochs: of the run.
        paper_epochs: of the recipe; a run with fewer is scaled down.
        teacher: the run that trained its teacher; None without one.
        overrides: settings that differ from the recipe's, seed and epochs apart: "method.alpha" -> value. Where the
            run's data, network, method or teacher is another than the recipe's, its name, "method.name" -> value, and
            what differs from its own defaults. A file or folder by its last name alone.
        command: one that makes the run, without paths; of a comparison the whole command that entered it.
        commit: of the source that trained, "-dirty" where files differed from it; several, joined by ", ", where the
            run was resumed with another; None where it is not known.
        package: version.
        hardware: where it ran.
        seconds: as result.json has them.
        peak_memory_mb: MiB, likewise.
        date: when it finished, UTC, such as 2026-11-22T14:03:05Z.
        targets: its soft targets over training, at most 12 epochs; None for a method without, and for a run that was
            entered before they were.
        images: what it was trained and tested on; None for a run that does not say so.
        settings: all that says what was trained, nested as config.yaml has it, which `overrides` are made of anew where
            a recipe has changed since; a file or folder by its last name alone. None for a run that was entered before
            they were.
    """

    recipe: str
    network: str
    method: str
    data: str
    seed: int
    exits: tuple[float, ...]
    final: float
    ensemble: float
    epochs: int
    paper_epochs: int
    teacher: TeacherRun | None
    overrides: Mapping[str, Any]
    command: str
    commit: str | None
    package: str
    hardware: Hardware
    seconds: float
    peak_memory_mb: float
    date: str
    targets: tuple[TargetsAt, ...] | None = None
    images: Images | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        return identity(
            self.recipe,
            seed=self.seed,
            epochs=self.epochs,
            overrides=self.overrides,
            hardware=self.hardware,
            teacher_epochs=self.teacher.epochs if self.teacher else None,
        )

    @property
    def outcome(self) -> tuple[float, ...]:
        """What two runs of the same settings on the same hardware must agree in to be one."""
        return (*self.exits, self.final, self.ensemble)

    @property
    def data_settings(self) -> tuple[str, dict[str, Any]]:
        """The data set by name and what differs from its own defaults; no recipe sets anything else of it."""
        own = {key: value for key, value in self.overrides.items() if key.startswith("data.") and key != "data.name"}
        return self.data, own

    def is_of_the_run_of(self, other: "Record") -> bool:
        """Whether both are of one folder, entered by two versions: the newer has settings that the run is older than,
        which it tells as null, so that the id is another. A copy of the folder is as good: its files have other dates.
        """
        return self._without_nulls() == other._without_nulls()

    def _without_nulls(self) -> tuple[Any, ...]:
        changed = {key: value for key, value in self.overrides.items() if value is not None}
        which = (self.recipe, self.method, self.seed, self.epochs, self.teacher, changed, self.hardware, self.outcome)
        return (*which, self.commit, self.seconds, self.peak_memory_mb)

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}


# Data sets that are the same wherever they lie; of any other, such as a folder of photographs, data.root says which.
SAME_EVERYWHERE = frozenset(("digits", "cifar10", "cifar100", "imagenet"))
_HUB = "hf:"  # likewise: their root is a cache


def is_same_everywhere(data: str) -> bool:
    """Whether a data set is known by its name."""
    return data in SAME_EVERYWHERE or data.startswith(_HUB)


def identity(
    recipe: str,
    *,
    seed: int,
    epochs: int,
    overrides: Mapping[str, Any],
    hardware: Hardware,
    teacher_epochs: int | None = None,
) -> str:
    """Sixteen hexadecimal digits that say which run it is, whatever came out of it.

    The hardware is part of it: elsewhere the same command gives other bits, and is another run.
    """
    known = [recipe, seed, epochs, dict(overrides), teacher_epochs, asdict(hardware)]
    text = json.dumps(known, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_length(value: Any) -> bool:
    return _is_count(value) and value >= 1


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_percent(value: Any) -> bool:
    return _is_amount(value) and value <= 100


def _within(low: float, high: float) -> "_Check":
    """For a mean of many values in a run's own precision, which may be past an end by its rounding."""
    slack = 1e-5 * max(abs(end) for end in (1, low, high) if math.isfinite(end))

    def check(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return number and low - slack <= value <= high + slack

    return check


def _each(check: "_Check") -> "_Check":
    return lambda value: isinstance(value, list) and bool(value) and all(check(item) for item in value)


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MOST_EPOCHS and all(isinstance(item, dict) for item in value)


def _is_settings(value: Any) -> bool:
    if not isinstance(value, dict) or "teacher" not in value:
        return False
    members = [value.get(family) for family in ("data", "model", "method")]
    teacher = [] if value["teacher"] is None else [value["teacher"]]
    return all(isinstance(member, dict) and _is_text(member.get("name")) for member in (*members, *teacher))


def _or_none(check: "_Check") -> "_Check":
    return lambda value: value is None or check(value)


MOST_EPOCHS = 12  # of `targets`
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_Check = Callable[[Any], bool]
_HARDWARE: Mapping[str, _Check] = {
    "device": _is_text,
    "torch": _is_text,
    "threads": _is_count,
    "precision": _is_text,
}
_TEACHER: Mapping[str, _Check] = {
    "network": _is_text,
    "epochs": _is_length,
    "seconds": _is_amount,
    "final": _is_percent,
    "device": lambda value: value is None or isinstance(value, str),
}
_RECORD: Mapping[str, _Check] = {
    "id": _is_text,
    "recipe": _is_text,
    "network": _is_text,
    "method": _is_text,
    "data": _is_text,
    "seed": _is_count,
    "exits": lambda value: isinstance(value, list) and all(_is_percent(item) for item in value),
    "final": _is_percent,
    "ensemble": _is_percent,
    "epochs": _is_length,
    "paper_epochs": _is_length,
    "teacher": lambda value: value is None or isinstance(value, dict),
    "overrides": lambda value: isinstance(value, dict),
    "command": _is_text,
    "commit": lambda value: value is None or isinstance(value, str),
    "package": _is_text,
    "hardware": lambda value: isinstance(value, dict),
    "seconds": _is_amount,
    "peak_memory_mb": _is_amount,
    "date": lambda value: isinstance(value, str) and _DATE.fullmatch(value) is not None,
    "targets": lambda value: value is None or _is_curve(value),
    "images": lambda value: value is None or isinstance(value, dict),
    "settings": lambda value: value is None or _is_settings(value),
}
# The format of a ledger that has all of them, and of the first that had each that came later.
FORMAT = 4
_SINCE = {"targets": 2, "images": 3, "settings": 4}
_IMAGES: Mapping[str, _Check] = {
    "train": _is_length,
    "test": _is_length,
    "classes": _is_length,
    "train_sha256": _is_sha256,
    "test_sha256": _is_sha256,
}
_TARGETS: Mapping[str, _Check] = {
    "epoch": _is_count,
    "generator_steps": _or_none(_is_count),
    "accuracy": _each(_within(0, 100)),
    "entropy": _each(_within(0, math.inf)),
    "confidence": _each(_within(0, 1)),
    "heldout_loss": _or_none(_within(0, math.inf)),
    "target_gain": _or_none(_each(_within(-math.inf, math.inf))),
    "label_gain": _or_none(_each(_within(-math.inf, math.inf))),
    "target_alignment": _or_none(_each(_within(-1, 1))),
    "label_alignment": _or_none(_each(_within(-1, 1))),
}


def _checked(values: Any, known: Mapping[str, _Check], where: str) -> dict[str, Any]:
    """Raises: LedgerError naming what is unknown, missing or impossible."""
    if not isinstance(values, dict):
        raise LedgerError(f"{where} is {values!r}, not a record; it was damaged or edited")
    for what, keys in (("unknown", values.keys() - known.keys()), ("missing", known.keys() - values.keys())):
        if keys:
            raise LedgerError(f"{where} has {what} keys: {', '.join(sorted(keys))}; was it written by another version?")
    for key, fits in known.items():
        if not fits(values[key]):
            raise LedgerError(f"{where}: {key} is {values[key]!r}, which cannot be; it was damaged or edited")
    return values


def parse(values: Any, where: str, *, format: int = FORMAT) -> Record:
    """A record as a file of this format has it; what came later is None.

    Raises: LedgerError that begins with `where`.
    """
    later = {key: None for key, since in _SINCE.items() if since > format}
    known = {key: check for key, check in _RECORD.items() if key not in later}
    found = {**later, **_checked(values, known, where)}
    found["exits"] = tuple(found["exits"])
    found["hardware"] = Hardware(**_checked(found["hardware"], _HARDWARE, f"{where}, hardware"))
    if found["teacher"] is not None:
        found["teacher"] = TeacherRun(**_checked(found["teacher"], _TEACHER, f"{where}, teacher"))
    if found["targets"] is not None:
        found["targets"] = _targets(found["targets"], found, where)
    if found["images"] is not None:
        found["images"] = Images(**_checked(found["images"], _IMAGES, f"{where}, images"))
    told = found.pop("id")
    record = Record(**found)
    if record.id != told:
        raise LedgerError(f"{where} has the id {told}, its settings make {record.id}; it was damaged or edited")
    return record


def _targets(values: Sequence[Any], run: Mapping[str, Any], where: str) -> tuple[TargetsAt, ...]:
    """Raises: LedgerError also where the epochs do not follow each other, or some of the exits have no target."""
    found: list[TargetsAt] = []
    for place, value in enumerate(values):
        here = f"{where}, targets {place}"
        checked = _checked(value, _TARGETS, here)
        taken: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in checked.items()}
        point = TargetsAt(**taken)
        several = [item for item in asdict(point).values() if isinstance(item, tuple)]
        if any(len(item) != len(run["exits"]) for item in several):
            raise LedgerError(f"{here} are not of {len(run['exits'])} exits; it was damaged or edited")
        if not (found[-1].epoch if found else -1) < point.epoch < run["epochs"]:
            raise LedgerError(f"{here}: epoch is {point.epoch}, which cannot be; it was damaged or edited")
        found.append(point)
    counts = [point.generator_steps for point in found if point.generator_steps is not None]
    if counts != sorted(counts):
        raise LedgerError(f"{where}, targets: generator_steps become fewer; it was damaged or edited")
    return tuple(found)
