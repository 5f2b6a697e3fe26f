"""The bottleneck module that turns a feature map into logits: used for early exits and for the generator's targets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import StageShape


class Exit(nn.Module):
    """1x1 to the inner width, one strided convolution down to the last stage's side, 1x1 to the last stage's width,
    each with batch normalisation and ReLU; then global average and a linear layer.

    Args:
        features: shape of the map that comes in.
        last: shape of F_K; its channels are the width before the linear layer, its side the side after the stride.
        num_classes: C.
        inner_width: channels of the two inner convolutions; None takes min(128, D_K / 4).

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
