"""Deep mutual learning: the student and a peer learn together, each from the label and from the other's output.

"DML" of Table 3, where the peer is a ResNet152. Source: Zhang et al., Deep Mutual Learning, CVPR 2018.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..config import require
from ..data import Batch
from ..losses import hard_loss, soft_divergence
from ..nn import Backbone, MultiExit
from ._apart import answer_apart
from ._base import Losses, Method, Objective, Player, Setting
from ._teacher import check_partner


@dataclass(frozen=True, kw_only=True)
class Options:
    """Deep mutual learning; the defaults are the original's, the paper states none.

    Args:
        mutual_weight: of the divergence from the other network, the label's cross entropy being 1; above 0.
        temperature: tau of both networks in the divergence, above 0.
    """

    mutual_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.mutual_weight > 0,
            "method.mutual_weight",
            self.mutual_weight,
            "take a number above 0; method plain is without a peer",
        )
        require(self.temperature > 0, "method.temperature", self.temperature, "take a number above 0; 1 is usual")


NAMES: dict[str, dict[str, object]] = {"dml": {}}
PARTNER = "peer"


class MutualLearning(Method):
    """L_1 = CE(y, p_1) + w KL(p_2 || p_1) for the student, the same with 1 and 2 exchanged for the peer.

    In each the other's probabilities are constants. The two take turns: the peer sees what the student says after the
    student's step, as in Algorithm 1 of the original.
    """

    def __init__(self, options: Options, setting: Setting) -> None:
        super().__init__()
        self._options = options
        self._label_smoothing = setting.label_smoothing
        self._class_weights = setting.class_weights
        self.student = setting.backbone
        self.peer = check_partner(
            setting.peer,
            setting.backbone,
            missing="method dml learns along with a second network; give --teacher.model NAME",
        )
        # What the peer has said to the images of this step, with its graph; nothing between steps.
        self._said: tuple[Tensor, Tensor] | None = None

    def players(self) -> dict[str, Player]:
        return {"student": Player(self.student, "sgd"), "peer": Player(self.peer, "sgd")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        return (Objective(of="student", loss=self._student_loss), Objective(of="peer", loss=self._peer_loss))

    def exits(self, images: Tensor) -> list[Tensor]:
        return [self.student(images)]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        return []

    def multi_exit(self) -> MultiExit | None:
        return None

    def deployable(self) -> Backbone:
        return self.student

    def _student_loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        # The peer does not move before its own turn, so one answer serves both turns.
        self._said = images, self.peer(images)
        total, hard, soft = self._loss(self.student(images), self._said[1].detach(), labels)
        return Losses(total, {"loss": total.detach(), "final_hard": hard.detach(), "final_soft": soft.detach()})

    def _peer_loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        images, labels = batch
        said, self._said = self._said, None
        logits = said[1] if said is not None and said[0] is images else self.peer(images)
        # The student has moved since its own turn: it is asked anew.
        total, hard, soft = self._loss(logits, answer_apart(self.student, images), labels)
        return Losses(total, {"peer_loss": total.detach(), "peer_hard": hard.detach(), "peer_soft": soft.detach()})

    def _loss(self, logits: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network with these logits minimises beside the other's, and its two terms."""
        hard = hard_loss(logits, labels, label_smoothing=self._label_smoothing, class_weights=self._class_weights)
        soft = soft_divergence(logits, other, temperature=self._options.temperature)
        return hard + self._options.mutual_weight * soft, hard, soft


def build(options: Options, setting: Setting) -> MutualLearning:
    return MutualLearning(options, setting)
