"""A run as the page asks it: what its outputs say of an image, what a threshold does to the test set, its mistakes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from .. import outcomes
from ..assemble import restore
from ..config import require
from ..data import normalised
from ..engine.examples import png_text
from ..errors import CheckpointError, ConfigError, DataError
from ..outcomes import mistakes
from ..outcomes.mistakes import Mistake
from ..outcomes.policy import Policy, Simulated, choices, costs, curve, simulate, uniform
from ..records import RunFolder, read_json

DEFAULT_THRESHOLD = 0.9
NUM_EXAMPLES = 12
Found = TypeVar("Found")
_POINTS = 51  # thresholds of a curve, from 0 to 1


@dataclass(frozen=True)
class Output:
    """What one output says of an image.

    Attributes:
        name: "exit 1" and so on, or "final".
        shares: probabilities of the C classes; of logits divided by the run's temperature for this output.
        target: T_k, the soft target that taught it; None where none did.
    """

    name: str
    shares: tuple[float, ...]
    target: tuple[float, ...] | None

    @property
    def answer(self) -> int:
        return max(range(len(self.shares)), key=self.shares.__getitem__)

    @property
    def confidence(self) -> float:
        return self.shares[self.answer]


@dataclass(frozen=True)
class Answer:
    """What a run says of an image.

    Attributes:
        png: what the network saw, as base64 text.
        label: the true class, where it is known.
        outputs: of S_1..S_K, the final one last.
    """

    png: str
    label: int | None
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Decision:
    """Who answers under a policy.

    Attributes:
        place: of the output, from 0.
        cost: of that, as a share of the plain network's multiply-accumulates; None where it is not known.
    """

    place: int
    cost: float | None


class Shown:
    """One run, restored.

    Raises: CheckpointError where it is no run folder, has no checkpoint, or is damaged; DataError where its data is not
        there, or has become another.

    Attributes:
        notes: what somebody who looks at it should know, a sentence each.
        classes: their names.
        num_exits: early ones, K - 1; 0 for a method without.
        calibrated: the policy that `metadistiller calibrate` chose, where it did.
        outcomes: answers to the test images, where the run is finished.
        mistakes: most confident first; None where they are not there.
    """

    def __init__(self, run: str) -> None:
        self.folder = RunFolder.open(run)
        self._restored = restore(run)
        config, data = self._restored.config, self._restored.dataset
        self.name = run
        self.summary = f"{config.model.name}, {config.method.name}, {config.data.name}"
        self.classes: tuple[str, ...] = data.classes
        self.notes: list[str] = []
        self._method = self._restored.method.eval()
        self._asking = threading.Lock()
        self.num_exits = len(self._method.exits(self._seen(data.test.pixels(torch.tensor([0]))))) - 1
        if not self.folder.finished:
            self.notes.append(
                f"Not finished: this is the network after {self._restored.epochs_done} of {config.epochs} epochs, and "
                "what the test set shows is there at the end only."
            )
        if not self.num_exits:
            self.notes.append(f"The method {config.method.name} has no early exits: there is the final answer alone.")
        self.outcomes = self._optional(self._read_outcomes) if self.folder.finished else None
        self.mistakes = self._optional(self._read_mistakes) if self.folder.finished else None
        self.calibrated = self._optional(self._read_calibration) if self.folder.early_exit.exists() else None

    def _optional(self, read: Callable[[], Found]) -> Found | None:
        """What is read, or None and a note where it cannot be."""
        try:
            return read()
        except (CheckpointError, ConfigError) as error:
            self.notes.append(f"{error}.")
            return None

    # -- files of the run ----------------------------------------------------------------------------------------------

    def _read_outcomes(self) -> outcomes.Outcomes:
        found = outcomes.read(self.folder.outcomes)
        if found.logits.shape[::2] != (self.num_exits + 1, len(self.classes)):
            raise CheckpointError(f"{self.folder.outcomes} is of another network; it was copied there or edited")
        return found

    def _read_mistakes(self) -> tuple[Mistake, ...]:
        return mistakes.read(self.folder.mistakes, num_classes=len(self.classes)).images

    def _read_calibration(self) -> Policy:
        path = self.folder.early_exit
        values = read_json(path)
        try:
            policy = Policy.from_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise _edited(path, error) from None
        if len(policy.thresholds) != self.num_exits:
            raise CheckpointError(
                f"{path} is of another network; 'metadistiller calibrate {self.folder}' makes it anew"
            )
        return policy

    # -- an image ------------------------------------------------------------------------------------------------------

    @cached_property
    def examples(self) -> tuple[tuple[int, Tensor], ...]:
        """Label and pixels (3, H, W) uint8 of the first test image of each class, of twelve classes at most."""
        labels = self._restored.dataset.test.labels
        present = torch.unique(labels)
        evenly = torch.linspace(0, len(present) - 1, min(NUM_EXAMPLES, len(present))).round().long()
        places = torch.stack([torch.nonzero(labels == label)[0, 0] for label in present[evenly]])
        pixels = self._restored.dataset.test.pixels(places)
        return tuple(zip(labels[places].tolist(), pixels, strict=True))

    def read(self, path: str) -> Tensor:
        """What the network sees of a file from anywhere; (3, H, W) uint8.

        Raises: DataError where it is too large, damaged, or no picture.
        """
        preparation = self._restored.dataset.picture_preparation
        try:
            return preparation.read(path)
        except DataError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise DataError(
                f"this picture has more than the {preparation.max_pixels:,} pixels that are read; take a smaller one"
            ) from None
        # Damaged bytes make the decoders raise nearly anything; what they say names files of the server.
        except Exception:
            raise DataError(
                "this file cannot be read as a picture: it is damaged, or no JPEG, PNG, BMP or WebP; take another"
            ) from None

    def fitted(self, pixels: Tensor) -> Tensor:
        """Another run's pixels (3, H, W) uint8 as this network sees them."""
        if tuple(pixels.shape[1:]) == self._restored.dataset.size:
            return pixels
        return self._restored.dataset.picture_preparation.pixels(_picture(pixels))

    @torch.no_grad()
    def answer(self, pixels: Tensor, label: int | None = None) -> Answer:
        """Args: pixels: (3, H, W) uint8 of the run's own size."""
        # Networks of timm and torchvision are read while they run: one request at a time.
        with self._asking:
            seen = self._seen(pixels[None])
            logits = [each[0].double() for each in self._method.exits(seen)]
            targets = [tuple(each[0].tolist()) for each in self._method.soft_targets(seen)]
        shares = [
            tuple((each / temperature).softmax(0).tolist())
            for each, temperature in zip(logits, self.temperatures, strict=True)
        ]
        taught = [*targets, *[None] * (len(shares) - len(targets))]
        return Answer(png_text(pixels), label, tuple(map(Output, outcomes.output_names(len(shares)), shares, taught)))

    def _seen(self, pixels: Tensor) -> Tensor:
        data = self._restored.dataset
        return normalised(pixels, data.mean, data.std)

    # -- thresholds ----------------------------------------------------------------------------------------------------

    @property
    def temperatures(self) -> tuple[float, ...]:
        """K; all 1 where the run was not calibrated."""
        return self.calibrated.temperatures if self.calibrated else (1.0,) * (self.num_exits + 1)

    def policy(self, threshold: float, *, own: bool = False) -> Policy:
        """One threshold for every exit; or this run's own from its calibration, where it has one.

        Raises: ConfigError where the threshold is not 0 to 1.
        """
        check_threshold(threshold)
        if own and self.calibrated:
            return self.calibrated
        return uniform(self.num_exits + 1, threshold, self.temperatures)

    def decide(self, answer: Answer, policy: Policy) -> Decision:
        """Which output would have answered, and what that costs."""
        certain = torch.tensor([[output.confidence] for output in answer.outputs], dtype=torch.float64)
        place = int(choices(certain.numpy(), policy.thresholds)[0])
        if self.outcomes is None:
            return Decision(place, None)
        return Decision(place, costs(self.outcomes, policy.thresholds)[place] / self.outcomes.trunk_macs[-1])

    def simulated(self, policy: Policy) -> Simulated | None:
        """What the policy does to the test images; None where their answers are not kept."""
        return simulate(self.outcomes, policy) if self.outcomes else None

    @cached_property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Cost, as a share of the plain network's, and accuracy in percent, for common thresholds from 0 to 1."""
        if self.outcomes is None:
            return ()
        whole = self.outcomes.trunk_macs[-1]
        thresholds = [step / (_POINTS - 1) for step in range(_POINTS)]
        found = curve(self.outcomes, thresholds, self.temperatures)
        return tuple((each.macs / whole, each.accuracy) for each in found)


def check_threshold(threshold: float) -> None:
    """Raises: ConfigError where it is not 0 to 1."""
    require(0 <= threshold <= 1, "threshold", threshold, "take 0 to 1")


def together(runs: Sequence[str]) -> list[Shown]:
    """One run, or two with the same classes. Raises: ConfigError; what Shown raises."""
    shown = [Shown(run) for run in runs]
    if len({each.classes for each in shown}) > 1:
        first, second = shown
        raise ConfigError(
            f"{second.name} has other classes than {first.name} ({_some(second.classes)} and {_some(first.classes)}); "
            "compare runs on the same classes"
        )
    return shown


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (f" ... ({len(classes)})" if len(classes) > 3 else "")


def _edited(path: Any, error: Exception) -> CheckpointError:
    missing = f"no {error}" if isinstance(error, KeyError) else str(error)
    return CheckpointError(f"{path} is not what this package writes ({missing}); it was damaged or edited")


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def thumbnail(pixels: Tensor, side: int) -> Image.Image:
    """A picture that is at least `side` pixels wide, with the network's own pixels to be seen."""
    picture = _picture(pixels)
    factor = max(1, -(-side // picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
