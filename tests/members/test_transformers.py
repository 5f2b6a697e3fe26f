"""Classifiers of Hugging Face transformers, whose outputs are no tensors but objects with `.logits`."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import metadistiller

SIDE, CLASSES = 64, 10
WIDTHS = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_labels": CLASSES}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, layer_type="basic", **WIDTHS)),
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(**WIDTHS)),
    "vit": lambda: ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=SIDE,
            hidden_dropout_prob=0.1,
            num_labels=CLASSES,
        )
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(
            image_size=SIDE, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4, num_labels=CLASSES
        )
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_boosted_as_it_is_and_comes_back(name: str) -> None:
    network = NETWORKS[name]().eval()
    keys = {key: value.shape for key, value in network.state_dict().items()}
    images, labels = torch.randn(4, 3, SIDE, SIDE), torch.arange(4)
    with torch.no_grad():
        plain = network(images).logits
    boosted = metadistiller.boost(network, input_size=SIDE, generator_width=8)
    assert len(boosted.exits(images)) >= 3
    with torch.no_grad():
        boosted.eval()
        assert torch.equal(boosted(images), plain)
    boosted.train()
    before = next(network.parameters()).detach().clone()
    student = torch.optim.SGD(boosted.student_parameters(), lr=0.01)
    boosted.loss(images, labels).backward()
    student.step()
    boosted.meta_loss((images, labels), (images.flip(0), labels.flip(0)), inner_lr=0.1).backward()
    gradients = [parameter.grad for parameter in boosted.generator_parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    assert not torch.equal(next(network.parameters()), before)
    assert boosted.unwrap() is network
    assert {key: value.shape for key, value in network.state_dict().items()} == keys
