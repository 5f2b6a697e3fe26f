"""Networks of timm, untouched: what ships loads into timm's own class under its own keys (extra `timm`).

Any image classifier of timm, as timm/NAME, with timm's initial weights. Stages end where timm's feature_info says that
features are, else where a run shows it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...config import require
from ...errors import ConfigError, DataError, UnknownName
from ._adapter import Adapter, adapt, image_size

# Arguments of create_model that read files, load weights or change what comes out. A run's settings and the header of
# an exported file may come from a stranger, and must not name a file to be opened.
OURS = (
    *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
    *("features_only", "num_classes"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A network of timm.

    Args:
        architecture: timm's name of it; the name fixes it.
        stages: modules that the stages end with, as `metadistiller inspect` shows them; null finds them.
        arguments: of timm's create_model besides these, such as {"drop_path_rate": 0.1} or {"img_size": 64}.
    """

    architecture: str
    stages: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in OURS:
            require(
                name not in self.arguments,
                "model.arguments",
                dict(self.arguments),
                f"leave {name} out: what it decides is decided elsewhere, weights by --weights and --pretrained",
            )


NAMES: dict[str, dict[str, object]] = {}
PATTERN = re.compile(r"timm/(?P<architecture>.+)")


def build(options: Options, num_classes: int) -> Adapter:
    """Raises: UnknownName, ConfigError, StageError."""
    timm = _timm()
    name = options.architecture
    if not timm.is_model(name):
        raise UnknownName("network", f"timm/{name}", [f"timm/{other}" for other in timm.list_models()])
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options.arguments)
    except TypeError as error:
        raise ConfigError(f"timm/{name} with model.arguments {dict(options.arguments)}: {error}") from None
    _, height, width = image_size(network)
    return adapt(network, num_classes=num_classes, size=(height, width), stages=options.stages)


def pretrained_weights(options: Options) -> dict[str, Tensor]:
    """timm's weights, from its cache or downloaded. Raises: DataError where they cannot be had."""
    name = options.architecture
    try:
        network = _timm().create_model(name, pretrained=True, **options.arguments)
    except ConfigError:
        raise
    # Whatever the network, the cache or the server has to say.
    except Exception as error:
        raise DataError(
            f"timm's weights of {name} cannot be had ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
            "on a machine without a connection give --weights FILE, a safetensors file of its state dict"
        ) from error
    return dict(network.state_dict())


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError("networks of timm need timm: pip install 'metadistiller[timm]'") from None
    return timm
