"""Writes src/metadistiller/data/digits.safetensors from scikit-learn's copy of the UCI digits.

Kept for provenance; it needs scikit-learn, which the package itself does not.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, CC
BY 4.0.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

digits = load_digits()
save_file(
    {
        "images": torch.tensor(digits.images).to(torch.uint8),  # (1797, 8, 8), 0 to 16
        "labels": torch.tensor(digits.target).to(torch.uint8),  # (1797,), 0 to 9
    },
    Path(__file__).parents[1] / "src/metadistiller/data/digits.safetensors",
    metadata={"source": "UCI Optical Recognition of Handwritten Digits, test part", "licence": "CC BY 4.0"},
)
