"""What turns a feature map into logits: used for early exits and for the generator's targets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import require
from ..errors import UnknownName
from .backbones import ExitDesign, StageShape


def build_exit(
    features: StageShape,
    last: StageShape,
    num_classes: int,
    *,
    design: ExitDesign,
    inner_width: int | None = None,
) -> nn.Module:
    """An exit of one design: logits (N, C) from (N, D_k, H_k, W_k). Its last layer is the linear `fc`.

    Args:
        features: shape of the map that comes in.
        last: shape of F_K.
        num_classes: C.
        design: bottleneck or linear, see BottleneckExit and LinearExit.
        inner_width: channels inside a bottleneck; None takes min(128, D_K / 4).
    Raises: UnknownName; ConfigError where a linear exit is given an inner width.
    """
    if design not in DESIGNS:
        raise UnknownName("exit design", design, DESIGNS)
    return DESIGNS[design](features, last, num_classes, inner_width=inner_width)


class BottleneckExit(nn.Module):
    """1x1 to the inner width, one strided convolution down to the last stage's side, 1x1 to the last stage's width,
    each with batch normalisation and ReLU; then global average and a linear layer.

    Args: as in build_exit. The channels of `last` are the width before the linear layer, its side the side after the
        stride.

    Source: the exits of Zhang et al., Be Your Own Teacher, ICCV 2019, which sec. 4.2 of the paper follows. Inner width
        128 is that author's own published figure and equals D_K / 4 for ResNet18 (docs/method.md).
    """

    def __init__(
        self,
        features: StageShape,
        last: StageShape,
        num_classes: int,
        *,
        inner_width: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner_width or max(1, min(128, last.channels // 4))
        # Kernel = stride, so every pixel counts once; sides that do not divide lose a border of less than one kernel.
        kernel = (max(1, features.height // last.height), max(1, features.width // last.width))
        self.conv1 = nn.Conv2d(features.channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel, stride=kernel)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, last.channels, 1)
        self.bn3 = nn.BatchNorm2d(last.channels)
        self.fc = nn.Linear(last.channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C) from (N, D_k, H_k, W_k)."""
        x = F.relu(self.bn1(self.conv1(features)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class LinearExit(nn.Module):
    """Global average and a linear layer.

    Args: as in build_exit; `last` does not matter.

    Raises: ConfigError where there is an inner width.
    Source: sec. 4.2 of the paper, for VGG.
    """

    def __init__(
        self,
        features: StageShape,
        last: StageShape,
        num_classes: int,
        *,
        inner_width: int | None = None,
    ) -> None:
        super().__init__()
        require(
            inner_width is None,
            "method.inner_width",
            inner_width,
            "leave it out (null): the exits of this network are linear and have nothing inside",
        )
        self.fc = nn.Linear(features.channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C) from (N, D_k, H_k, W_k)."""
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))
        return logits


DESIGNS: dict[str, type[BottleneckExit | LinearExit]] = {"bottleneck": BottleneckExit, "linear": LinearExit}
