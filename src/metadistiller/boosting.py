"""A network of one's own, boosted in a training loop of one's own.

boosted = metadistiller.boost(model)
loss = boosted.loss(images, labels)                                                  # then backward and step, as ever
meta = boosted.meta_loss(train_batch, heldout_batch, inner_lr=lr)                    # the generator's, now and then
model = boosted.unwrap()
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import require
from .data import Batch, Halves
from .errors import ConfigError
from .lookup import FAMILIES, find
from .methods import Losses, Method, Objective, Setting
from .nn import Adapter, Backbone, ExitDesign, adapt, floating_parameter, image_size

_PLAYERS = {"student", "generator"}


class Boosted(nn.Module):
    """A network with what a method adds to it while it trains. `boost` makes one.

    As a module it answers like the network itself; its state_dict is everything that a checkpoint must hold.

    Attributes:
        method: see metadistiller.methods.
        parts: of the last loss, by name, detached: each exit's hard and soft term, how soft the targets are.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.parts: dict[str, Tensor] = {}
        self._compiled = False

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N, C) of the network; with labels the training loss, so that whatever wraps a module can train it."""
        if labels is not None:
            return self.loss(images, labels)
        logits: Tensor = self.method.deployable()(images)
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the student minimises (eq. 3 for metadistiller); scalar in nats. Gradients reach the student only.

        Args:
            images: (N, 3, H, W), H and W as boosted for.
            labels: (N,) int64, or probabilities (N, C) as mixup and cutmix make them.
        """
        self._hold_taps()
        losses: Losses = self._objective("student").loss((images, labels), {})
        self.parts = dict(losses.parts)
        return losses.total

    def meta_loss(self, train_batch: Batch, heldout_batch: Batch, *, inner_lr: float) -> Tensor:
        """A scalar whose gradient in the generator is the meta-gradient of eq. 8; its value has no meaning.

        The student, its gradients and its batch statistics are left as they are.

        Args:
            train_batch: (images, labels), X_train of Algorithm 1.
            heldout_batch: the same of X_test, with no image of the other.
            inner_lr: zeta, the student's current learning rate; >= 0.
        Raises: ConfigError for a method without a generator that learns.
        """
        require(inner_lr >= 0, "inner_lr", inner_lr, "take the student's current learning rate")
        objective = self._objective("generator")
        batch: Any = (train_batch, heldout_batch) if isinstance(objective.stream, Halves) else train_batch
        losses: Losses = objective.loss(batch, {"student": inner_lr})
        self.parts = self.parts | dict(losses.parts)
        return losses.total

    def exits(self, images: Tensor) -> list[Tensor]:
        """Logits S_1..S_K, shallow first, (N, C) each; the last is the network's own."""
        self._hold_taps()
        return self.method.exits(images)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities (N, C) of the network, in evaluation mode; the mode that it was in comes back."""
        with self.method.evaluating():
            return F.softmax(self(images).float(), dim=1)

    def student_parameters(self) -> Iterator[nn.Parameter]:
        """Of the network and its exits: what `loss` trains."""
        return self.method.players()["student"].module.parameters()

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """What `meta_loss` trains; nothing for a method without a generator."""
        players = self.method.players()
        return players["generator"].module.parameters() if "generator" in players else iter(())

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """For one optimizer over both: two groups with `params`, `lr` and `name`.

        Args:
            lr: of the student. The generator has its own, of the option generator_lr, and belongs to Adam: with SGD
                make an optimizer of each.
        """
        groups = []
        for name, player in self.method.players().items():
            rate = lr if player.lr is None else player.lr
            groups.append({"params": list(player.module.parameters()), "lr": rate, "name": name})
        return groups

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the student's forward pass, as torch.compile would; the network is not replaced.

        The meta step stays eager, as it needs forward-mode differentiation. Hooks stay in the network from each loss
        to the next `unwrap`.
        """
        self._compiled = True
        self.method.players()["student"].module.compile(*args, **options)

    def unwrap(self) -> nn.Module:
        """The network that was given: the same object, with the same keys, now better. Training may go on."""
        backbone = self.method.deployable()
        if isinstance(backbone, Adapter):
            backbone.release_taps()
        return backbone.plain

    def _hold_taps(self) -> None:
        backbone = self.method.deployable()
        if self._compiled and isinstance(backbone, Adapter):
            backbone.hold_taps()

    def _objective(self, player: str) -> Objective:
        for objective in self.method.objectives(0):
            if objective.of == player:
                return objective
        raise ConfigError(
            f"this method has no {player} that learns; metadistiller and residual_metadistiller have, with targets "
            "meta or labels"
        )


def boost(
    model: nn.Module,
    *,
    method: str = "metadistiller",
    num_classes: int | None = None,
    input_size: int | Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    exit_design: ExitDesign = "bottleneck",
    teacher: nn.Module | None = None,
    label_smoothing: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Boosted:
    """Any image classifier, with everything that makes it better while it trains.

    Args:
        model: gives logits (N, C) for images (N, 3, H, W). It is kept inside as it is, and `unwrap` gives it back.
        method: metadistiller, residual_metadistiller, dsn, self_distillation, plain; kd or attention_transfer with a
            teacher.
        num_classes: C, checked; None takes what the network gives.
        input_size: of the images: a side, (height, width), or (channels, height, width). None takes what a network of
            timm says of itself, else 224.
        stages: names of the modules that the stages end with; None finds them (metadistiller inspect shows them).
        exit_design: bottleneck, or linear (average and linear layer).
        teacher: a trained network of the same classes.
        label_smoothing: of the hard labels, 0 to below 1.
        seed: of the weights of exits and generator.
        options: of the method, such as alpha=0.5 or generator_width=128.
    Raises: StageError where the network is no image classifier of two stages or more; ConfigError; UnknownName.
    """
    channels, height, width = _size(input_size, model)
    member = find(*FAMILIES["method"], method)
    if member.partner != "teacher" and teacher is not None:
        raise ConfigError(f"the method {method} has no teacher; leave teacher out")
    if member.partner == "peer":
        raise ConfigError(f"the method {method} trains two networks; take 'metadistiller train --method {method}'")
    if member.partner == "teacher" and teacher is None:
        raise ConfigError(f"the method {method} learns from a teacher; give teacher=, a trained network")

    def adapted(network: nn.Module, **more: Any) -> Backbone:
        return adapt(network, size=(height, width), in_channels=channels, exit_design=exit_design, **more)

    backbone = adapted(model, num_classes=num_classes, stages=stages)
    setting = Setting(
        backbone,
        (height, width),
        seed,
        label_smoothing=label_smoothing,
        teacher=None if teacher is None else adapted(teacher),
    )
    known = {field.name for field in fields(member.options)}
    if "generator_warmup_epochs" in known:
        require(
            not options.get("generator_warmup_epochs"),
            "generator_warmup_epochs",
            options.get("generator_warmup_epochs"),
            "epochs are those of 'metadistiller train'; leave it out",
        )
    if "lookahead" in known and options.get("targets", "meta") == "meta":
        # A loop of one's own may scale, accumulate or add to the gradient that a shared look-ahead would be made of.
        require(
            options.get("lookahead", "own") == "own", "lookahead", options.get("lookahead"), "here it is own always"
        )
        options["lookahead"] = "own"
    built: Method = member.build(member.configure(options), setting)
    if not set(built.players()) <= _PLAYERS:
        raise ConfigError(
            f"the method {method} moves {', '.join(built.players())} in turns; take 'metadistiller train --method "
            f"{method}'"
        )
    first = floating_parameter(model)
    if first is not None:
        built.to(device=first.device, dtype=first.dtype)
    return Boosted(built)


def _size(given: int | Sequence[int] | None, model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images."""
    if given is None:
        return image_size(model)
    sides = [3, given, given] if isinstance(given, int) else [3, *given] if len(given) == 2 else list(given)
    require(
        len(sides) == 3 and all(isinstance(side, int) and side > 0 for side in sides),
        "input_size",
        given,
        "take a side, (height, width), or (channels, height, width)",
    )
    return sides[0], sides[1], sides[2]
