"""What kd, fitnet and attention_transfer share: a trained network that teaches and never moves."""

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn import Backbone
from ._bare import BareNetwork
from ._base import Setting


def check_partner(partner: Backbone | None, backbone: Backbone, *, missing: str) -> Backbone:
    """The second network of a method, as far as it can be one.

    Args:
        partner: teacher or peer.
        backbone: the student.
        missing: what to say where there is none.
    Raises: ConfigError where it is missing, or tells other classes apart.
    """
    if partner is None:
        raise ConfigError(missing)
    if partner.num_classes != backbone.num_classes:
        raise ConfigError(
            f"the second network tells {partner.num_classes} classes apart, the student {backbone.num_classes}; "
            "take a --teacher that was made for the same data"
        )
    return partner


class FrozenTeacher:
    """A teacher in evaluation mode that learns nothing.

    Not an nn.Module, so that a method may hold one without owning it: neither state_dict, nor parameters(), nor
    train() of the method sees it, and a checkpoint does not hold it. Whoever made it has also moved it to its device.
    Its outputs are computed anew for each batch: augmentation makes every batch another one.

    Args:
        setting: with the teacher, which is frozen in place.
        method: name of the method, for the message.
    Raises: ConfigError where there is no teacher, or one of other classes.
    """

    def __init__(self, setting: Setting, *, method: str) -> None:
        self.network = check_partner(
            setting.teacher,
            setting.backbone,
            missing=f"method {method} learns from a teacher; give --teacher RUN, or --teacher.model NAME to have one "
            "trained first",
        )
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits of T, (N, C), without gradient."""
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def stages(self, images: Tensor, upto: int | None = None) -> list[Tensor]:
        """F_1..F_upto of the teacher, as Backbone.stages gives them, without gradient; later stages do not run."""
        return self.network.stages(images, upto=upto)


class Taught(BareNetwork):
    """The network and nothing else learns, and a frozen teacher helps."""

    def __init__(self, setting: Setting, *, method: str) -> None:
        super().__init__(setting)
        self._teacher = FrozenTeacher(setting, method=method)
