"""What `metadistiller calibrate` chose and measured: early_exit.json of a run folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..records import read_json, write_json
from .policy import Policy, number


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the thresholds were chosen for; one of the two, the other is None.

    Attributes:
        max_loss: percentage points of accuracy, >= 0.
        mean_macs: multiply-accumulates of an image, > 0.
    """

    max_loss: float | None = None
    mean_macs: float | None = None

    def __str__(self) -> str:
        if self.max_loss is not None:
            return f"at most {self.max_loss:g} points lost"
        return f"at most {self.mean_macs:,.0f} MACs"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Which images chose, and which others were measured on.

    Attributes:
        share: of each class, as far as the numbers allow, above 0 and below 1.
        chosen_on, measured_on: images.
        told: the same in words.
    """

    share: float
    chosen_on: int
    measured_on: int
    told: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one batch size, beside the plain network in the same process on the same images.

    Attributes:
        batch: images at once.
        ms: milliseconds a batch; the median over repeats.
        images_per_second: from that.
        ratio: to the plain network's ms; below 1 is faster.
    """

    batch: int
    ms: float
    images_per_second: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network, measured on images that chose nothing.

    Attributes:
        name: "plain network", "early exit", or what another policy was chosen for.
        policy: None for the plain network.
        accuracy: percent.
        loss: percentage points below the plain network; None for that itself.
        interval: the 95 % interval of `loss`.
        macs: mean multiply-accumulates of an image, exits that were asked included.
        saved: percent of the plain network's.
        left: how many images each of the K outputs answered.
        latency: empty where it was not measured.
    """

    name: str
    policy: Policy | None
    accuracy: float
    loss: float | None
    interval: tuple[float, float] | None
    macs: float
    saved: float
    left: tuple[int, ...]
    latency: tuple[Latency, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """All of early_exit.json.

    Attributes:
        target: what was asked for.
        held_out: which images chose.
        policy: what was chosen; the file has it as `temperatures` and `thresholds`.
        measured: the plain network, what was chosen, and what other targets would have given.
        proved: on how many images the network in early_exit.safetensors was asked, and on how many of them the same
            output gave the same answer as in the run's outcomes; `images` and `same`.
        machine: what latency was measured on; None where it was not.
    """

    target: Target
    held_out: HeldOut
    policy: Policy
    measured: tuple[Row, ...]
    proved: Mapping[str, int]
    machine: Mapping[str, Any] | None = None

    @property
    def plain(self) -> Row:
        return self.measured[0]

    @property
    def chosen(self) -> Row:
        """The row of `policy`."""
        return self.measured[1]


def write(chosen: EarlyExit, path: Path) -> None:
    write_json(
        path,
        {
            "target": asdict(chosen.target),
            "held_out": asdict(chosen.held_out),
            **chosen.policy.as_dict(),
            "measured": [asdict(row) for row in chosen.measured],
            "proved": dict(chosen.proved),
            "machine": None if chosen.machine is None else dict(chosen.machine),
        },
    )


def read(path: Path) -> EarlyExit:
    """What `write` wrote. Raises: CheckpointError where it is missing, damaged, or edited into what cannot be meant."""
    if not path.exists():
        raise CheckpointError(f"{path} is not there; 'metadistiller calibrate {path.parent}' writes it")
    values = read_json(path)
    try:
        found = EarlyExit(
            target=_target(values["target"]),
            held_out=HeldOut(
                share=number(values["held_out"]["share"]),
                chosen_on=int(values["held_out"]["chosen_on"]),
                measured_on=int(values["held_out"]["measured_on"]),
                told=str(values["held_out"]["told"]),
            ),
            policy=Policy.from_dict(values),
            measured=tuple(map(_row, values["measured"])),
            proved={key: int(values["proved"][key]) for key in ("images", "same")},
            machine=None if values["machine"] is None else dict(values["machine"]),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not hold what 'metadistiller calibrate' writes ({type(error).__name__}: {error}); it was "
            "damaged or edited, and that command writes it anew"
        ) from None
    outputs = len(found.policy.temperatures)
    if len(found.measured) < 2 or any(len(row.left) != outputs for row in found.measured):
        raise CheckpointError(f"{path} has no row for the plain network and for what was chosen, of {outputs} outputs")
    return found


def _target(values: Any) -> Target:
    given = {key: None if values[key] is None else number(values[key]) for key in ("max_loss", "mean_macs")}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError("not one target")
    return Target(**given)


def _row(values: Any) -> Row:
    low_high = values["interval"]
    return Row(
        name=str(values["name"]),
        policy=None if values["policy"] is None else Policy.from_dict(values["policy"]),
        accuracy=number(values["accuracy"]),
        loss=None if values["loss"] is None else number(values["loss"]),
        interval=None if low_high is None else (number(low_high[0]), number(low_high[1])),
        macs=number(values["macs"]),
        saved=number(values["saved"]),
        left=tuple(map(int, values["left"])),
        latency=tuple(
            Latency(
                batch=int(each["batch"]), **{key: number(each[key]) for key in ("ms", "images_per_second", "ratio")}
            )
            for each in values["latency"]
        ),
    )
