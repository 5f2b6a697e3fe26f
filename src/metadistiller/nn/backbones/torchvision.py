"""Networks of torchvision, untouched: what ships loads into torchvision's own class under its own keys.

Any image classifier of torchvision, with torchvision's initial weights. Of the twelve that stand in `list`, stages end
where those of our own networks do: after layer1..layer4 of a ResNet, before poolings 2 to 5 of a VGG, after the groups
of 24, 32, 96 and 320 channels of MobileNetV2, after stage2..stage4 of ShuffleNetV2. Of all others a run finds them.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import models

from ...errors import DataError, UnknownName
from ._adapter import Adapter, adapt


@dataclass(frozen=True, kw_only=True)
class Options:
    """A network of torchvision.

    Args:
        architecture: torchvision's name of it; the name fixes it.
        stages: modules that the stages end with, as `metadistiller inspect` shows them; null finds them.
    """

    architecture: str
    stages: tuple[str, ...] | None = None


_RESNET = ("layer1", "layer2", "layer3", "layer4")
_STAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _RESNET),
    # The ReLUs before the second to fifth pooling.
    "vgg16_bn": ("features.12", "features.22", "features.32", "features.42"),
    "vgg19": ("features.8", "features.17", "features.26", "features.35"),
    "vgg19_bn": ("features.12", "features.25", "features.38", "features.51"),
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.17"),
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"), ("stage2", "stage3", "stage4")),
}
NAMES = {f"torchvision/{name}": {"architecture": name} for name in _STAGES}
PATTERN = re.compile(r"torchvision/(?P<architecture>\w+)")


def build(options: Options, num_classes: int) -> Adapter:
    """Raises: UnknownName, StageError."""
    name = options.architecture
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName("network", f"torchvision/{name}", [f"torchvision/{other}" for other in known])
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return adapt(
        network,
        num_classes=num_classes,
        size=(299, 299) if name == "inception_v3" else (224, 224),
        stages=options.stages or _STAGES.get(name),
        # Sec. 4.2 of the paper has linear exits for VGG.
        exit_design="linear" if name.startswith("vgg") else "bottleneck",
    )


def pretrained_weights(options: Options) -> dict[str, Tensor]:
    """torchvision's newest weights, from its cache or downloaded. Raises: DataError where they cannot be had."""
    name = options.architecture
    try:
        # torchvision alone would let the file, which is a pickle, run what it likes.
        state: dict[str, Tensor] = models.get_model_weights(name).DEFAULT.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    # Whatever the network, the cache or the server has to say.
    except Exception as error:
        raise DataError(
            f"torchvision's weights of {name} cannot be had, from {torch.hub.get_dir()} or by download "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]}); on a machine without a connection give "
            "--weights FILE, a safetensors file of its state dict"
        ) from error
    return state
