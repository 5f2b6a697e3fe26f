"""Ten small pictures that are all different, and their classes."""

import io
from typing import Any

import torch
from PIL import Image

SIZE = 16
LABELS: list[Any] = ["cat"] * 5 + ["dog"] * 5


def noise(seed: int) -> Image.Image:
    draw = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=draw).numpy())


def png(image: Image.Image) -> bytes:
    """As a PNG."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


PICTURES = [noise(number) for number in range(len(LABELS))]
