"""What plain training and the methods of a frozen teacher share: the network learns as it stands, without exits."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from ..data import Batch
from ..nn import Backbone, MultiExit
from ._base import Losses, Method, Objective, Player, Setting


class BareNetwork(Method):
    """theta_s is the network and nothing else; methods differ in the loss alone."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.student = setting.backbone
        self._label_smoothing = setting.label_smoothing
        self._class_weights = setting.class_weights

    @abstractmethod
    def loss(self, batch: Batch, rates: Mapping[str, float]) -> Losses:
        """The student's loss on one batch."""

    def players(self) -> dict[str, Player]:
        return {"student": Player(self.student, "sgd")}

    def objectives(self, epoch: int) -> tuple[Objective, ...]:
        return (Objective(of="student", loss=self.loss),)

    def exits(self, images: Tensor) -> list[Tensor]:
        return [self.student(images)]

    def soft_targets(self, images: Tensor) -> list[Tensor]:
        # Soft targets are those of early exits, and there are none.
        return []

    def multi_exit(self) -> MultiExit | None:
        return None

    def deployable(self) -> Backbone:
        return self.student
