"""A network that answers easy images early: the plain one with its exits, and when each of them may answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..config import Choice
from ..data import Dataset, Preparation
from ..errors import CheckpointError, ConfigError, StageError, UsageError
from ..nn import MultiExit, build_network, floating_parameter
from ..outcomes.policy import Policy
from ..records import write_bytes
from .checkpoint import dense
from .tensor_file import LARGEST_SIDE, filled, parse, read_tensor_file

KEY = "early_exit"  # of the file's metadata
NETWORK, EXITS = "network.", "exits."  # before the names of weights in a file
_CANNOT = "images cannot leave this network between its stages: it carries more from one to the next than a feature map"
_INSTEAD = "choose other stages with --model.stages, or use the plain network"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What images a network was trained on, and what its answers are called.

    Attributes:
        classes: C names in the order of the labels.
        size: height and width in pixels.
        mean, std: of each channel, for pixels of 0..1.
        preparation: how a picture becomes these pixels.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: Preparation

    @classmethod
    def of(cls, dataset: Dataset) -> "Shown":
        return cls(
            classes=dataset.classes,
            size=dataset.size,
            mean=dataset.mean,
            std=dataset.std,
            preparation=dataset.picture_preparation,
        )


class Answered(NamedTuple):
    """Attributes:
    logits: (N, C) of the output that answered, as it gave them.
    probabilities: (N, C) float32; softmax(logits / T) with the temperature of that output.
    answers: (N,) int64; the likeliest class.
    exits: (N,) int64; which output answered, from 0; K - 1 is the final one.
    """

    logits: Tensor
    probabilities: Tensor
    answers: Tensor
    exits: Tensor


class EarlyExitClassifier(nn.Module):
    """Answers each image at the first exit that is certain enough; what is left, by the final output.

    Images that are answered leave the batch at the end of their stage and the others go on; after the last has left,
    nothing runs. Exits that the policy does not use never run. Where nobody leaves, logits are those of the plain
    network bit for bit; where some do, to the rounding of another batch size. One call at a time: networks of timm and
    torchvision are read while they run.

    Args:
        student: backbone and exits; the very modules, from now on in evaluation mode.
        policy: when an exit may answer.
        shown: what the network was trained on.
    Raises: ConfigError where the policy is of another number of outputs; StageError where images cannot leave the
        network between its stages: a batch without them gets other answers than with them.
    """

    def __init__(self, student: MultiExit, policy: Policy, shown: Shown) -> None:
        super().__init__()
        policy.check_outputs(len(student.exits) + 1)
        self.student = student
        self.policy = policy
        self.shown = shown
        self.eval()
        self._check_rows()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Answered:
        """Answers to normalised images (N, in_channels, H, W); N may be 0."""
        if self.training:
            raise ConfigError(
                "the classifier is in training mode, in which a batch's images change each other; call eval()"
            )
        passing = _Pass(self, images)
        if len(images):
            passing.finish(self.student.backbone.visited(images, passing.visit))
        assert passing.logits is not None
        temperatures = torch.tensor(self.policy.temperatures, dtype=torch.float64, device=images.device)
        probabilities = (passing.logits.double() / temperatures[passing.exits, None]).softmax(1).float()
        return Answered(passing.logits, probabilities, passing.logits.argmax(1), passing.exits)

    def with_policy(self, policy: Policy) -> "EarlyExitClassifier":
        """The same network and exits, answering by another policy. Raises: as the constructor."""
        return EarlyExitClassifier(self.student, policy, self.shown)

    @torch.no_grad()
    def _check_rows(self) -> None:
        """One image leaves at the end of each stage; the last two must be answered as if none had."""
        backbone, left = self.student.backbone, []

        def visit(k: int, carried: Tensor) -> Tensor:
            left.append(k)
            return carried[torch.arange(1, len(carried), device=carried.device)]

        first = floating_parameter(backbone)
        dtype, device = (torch.float32, torch.device("cpu")) if first is None else (first.dtype, first.device)
        if device.type == "meta":
            return
        drawn = torch.Generator().manual_seed(0)
        images = torch.randn(backbone.num_stages + 1, backbone.in_channels, *self.shown.size, generator=drawn)
        images = images.to(device=device, dtype=dtype)
        whole = backbone(images)[-2:]
        try:
            alone = backbone.visited(images, visit)
        # A stranger's network says in its own way that it had counted on every row.
        except Exception as error:
            raise StageError(f"{_CANNOT} ({' '.join(str(error).split())[:200]}); {_INSTEAD}") from error
        if alone is None or alone.shape != whole.shape:
            raise StageError(f"{_CANNOT} (the rows that go on do not all come to the end); {_INSTEAD}")
        gap, largest = float((alone - whole).abs().max()), float(whole.abs().max())
        if not gap <= 1e-3 * largest:
            raise StageError(
                f"{_CANNOT} (logits as large as {largest:.3g} of those that stay change by {gap:.3g}); {_INSTEAD}"
            )


class _Pass:
    """One batch on its way.

    Attributes:
        logits, exits: as in Answered, filled as images leave.
    """

    def __init__(self, classifier: EarlyExitClassifier, images: Tensor) -> None:
        self._student, self._policy = classifier.student, classifier.policy
        self._size = (images.shape[-2], images.shape[-1])
        # Where the rows that are still on their way stand in the batch; None while that is all of them.
        self._rows: Tensor | None = None
        self.exits = torch.full((len(images),), len(self._policy.thresholds), device=images.device)
        self.logits: Tensor | None = None
        if not len(images):
            self.logits = images.new_empty(0, self._student.backbone.num_classes)

    def visit(self, k: int, carried: Tensor) -> Tensor | None:
        threshold = self._policy.thresholds[k - 1]
        if threshold is None:
            return carried
        logits: Tensor = self._student.exits[k - 1](self._student.backbone.map_of(k, carried, self._size))
        # In float64, as thresholds were chosen: float32 rounds whatever is nearly certain to 1.
        certain = (logits.double() / self._policy.temperatures[k - 1]).softmax(1).amax(1)
        leaves = certain >= threshold
        # The one place where the processor waits for a GPU, once a stage.
        staying = torch.nonzero(~leaves).flatten()
        if len(staying) == len(carried):
            return carried
        rows = torch.arange(len(carried), device=carried.device) if self._rows is None else self._rows
        if self.logits is None:
            self.logits = logits.new_empty(len(self.exits), logits.shape[1])
        # Of those that stay too: a later output writes over them, and no second wait counts who leaves.
        self.logits[rows] = logits
        self.exits[rows] = k - 1
        if not len(staying):
            return None
        self._rows = rows[staying]
        # Indexing keeps the memory format.
        return carried[staying]

    def finish(self, logits: Tensor | None) -> None:
        if logits is None:
            return
        if self._rows is None:
            self.logits = logits
            return
        assert self.logits is not None
        self.logits[self._rows] = logits
        self.exits[self._rows] = len(self._policy.thresholds)


# -- the file ---------------------------------------------------------------------------------------------------------


def save_early_exit(classifier: EarlyExitClassifier, path: Path, *, model: Choice) -> None:
    """Write the classifier as one safetensors file.

    Args:
        model: the network by name and options, as build_network takes it.
    """
    student, shown, policy = classifier.student, classifier.shown, classifier.policy
    header = {
        "model": model.as_dict(),
        "classes": list(shown.classes),
        "size": list(shown.size),
        "mean": list(shown.mean),
        "std": list(shown.std),
        "preparation": shown.preparation.as_dict(),
        "exits": {"design": student.backbone.exit_design, "inner_width": student.inner_width},
        "policy": policy.as_dict(),
    }
    tensors = {
        **{f"{NETWORK}{name}": tensor for name, tensor in student.backbone.plain.state_dict().items()},
        **{f"{EXITS}{name}": tensor for name, tensor in student.exits.state_dict().items()},
    }
    # One key only: the order of several is not fixed in the file, and the same classifier must give the same bytes.
    write_bytes(path, save(dense(tensors), metadata={KEY: json.dumps(header, allow_nan=False)}))


def load_early_exit(path: str | Path) -> EarlyExitClassifier:
    """Read what `metadistiller calibrate` wrote; on the processor, in evaluation mode.

    Raises: CheckpointError naming file and reason.
    """
    metadata, tensors = read_tensor_file(path)
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} holds no early-exit network; 'metadistiller calibrate RUN' writes RUN/early_exit.safetensors"
        )
    header = parse(metadata[KEY], path)
    try:
        model, inner_width, shown, policy = _parsed(header)
    except (ValueError, KeyError, TypeError, AttributeError, CheckpointError, OverflowError) as error:
        raise CheckpointError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
    student = filled(
        lambda: MultiExit(build_network(model, len(shown.classes)), shown.size, inner_width=inner_width),
        lambda student: {NETWORK: student.backbone.plain, EXITS: student.exits},
        tensors,
        path,
    )
    try:
        return EarlyExitClassifier(student, policy, shown)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _parsed(header: dict[str, Any]) -> tuple[Choice, int | None, Shown, Policy]:
    """Raises: what malformed values raise."""
    model = dict(header["model"])
    name, inner_width = str(model.pop("name")), header["exits"]["inner_width"]
    height, width = map(int, header["size"])
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise ValueError(f"images of {height}x{width} pixels")
    if inner_width is not None and not 0 < int(inner_width) <= LARGEST_SIDE:
        raise ValueError(f"an inner width of {inner_width}")
    shown = Shown(
        classes=tuple(map(str, header["classes"])),
        size=(height, width),
        mean=tuple(map(float, header["mean"])),
        std=tuple(map(float, header["std"])),
        preparation=Preparation.from_dict(header["preparation"]),
    )
    policy = Policy.from_dict(header["policy"])
    return Choice(name=name, options=model), inner_width if inner_width is None else int(inner_width), shown, policy
