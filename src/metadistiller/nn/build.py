"""A network from its name."""

from ..config import Choice
from ..lookup import FAMILIES, find
from .backbones import Backbone


def build_network(model: Choice, num_classes: int) -> Backbone:
    """The network called `model.name`, with weights from torch's global generator.

    Raises: UnknownName, ConfigError.
    """
    member = find(*FAMILIES["model"], model.name)
    network: Backbone = member.build(member.configure(model.options), num_classes)
    return network
