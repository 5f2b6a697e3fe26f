"""The meta-gradient by double backward, written straight from eqs. 3, 4, 7 and 8, sharing no code with meta/."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from metadistiller.config import Choice
from metadistiller.nn import LabelGenerator, MultiExit, build_network, stage_shapes

NETWORKS = {
    "resnet10": Choice(name="resnet10", options={"width": 8}),
    "resnet10-imagenet": Choice(name="resnet10", options={"width": 8, "stem": "imagenet"}),
    "wrn10_1": Choice(name="wrn10_1"),
    "resnext29_2": Choice(name="resnext29_2", options={"width": 4}),
    "vgg11_bn": Choice(name="vgg11_bn", options={"width": 4}),
    "mobilenet_v2": Choice(name="mobilenet_v2", options={"width": 0.1}),
    "shufflenet_v2": Choice(name="shufflenet_v2_x0_5"),
    "torchvision": Choice(name="torchvision/shufflenet_v2_x0_5"),
}


@dataclass
class Scene:
    """A student, its generator, a look-ahead batch and a held-out batch."""

    student: MultiExit
    generator: LabelGenerator
    train_batch: tuple[Tensor, Tensor]
    heldout_batch: tuple[Tensor, Tensor]

    def theta_g(self) -> list[Tensor]:
        return list(self.generator.parameters())


def scene(
    model: Choice,
    *,
    dtype: torch.dtype = torch.float64,
    classes: int = 5,
    width: int | str = "mirror",
    batch: int = 8,
    norm: str = "none",
    residual: bool = False,
) -> Scene:
    backbone = build_network(model, classes)
    side = max(16, 2 * backbone.total_stride)
    size = (side, side)
    student = MultiExit(backbone, size).to(dtype)
    shapes = stage_shapes(backbone, size)
    generator = LabelGenerator(
        shapes, classes, width=width, exit_design=backbone.exit_design, norm=norm, residual=residual
    ).to(dtype)
    if residual:
        # Away from self-distillation, where only its last layers have a gradient.
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(0.1 * torch.randn_like(p))
    batches = [
        (torch.randn(count, 3, *size, dtype=dtype), torch.randint(classes, (count,))) for count in (batch, batch + 4)
    ]
    return Scene(student, generator, batches[0], batches[1])


def double_backward(
    s: Scene,
    *,
    inner_lr: float,
    alpha: float,
    temperature: float,
    heldout: str = "final",
    label_smoothing: float = 0.0,
    detach_features: bool = True,
) -> list[Tensor]:
    """d L_test(theta_s^+) / d theta_g with the graph of the look-ahead kept."""
    images, labels = s.train_batch
    params = dict(s.student.named_parameters())

    def buffers() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in s.student.named_buffers()}

    features, exits = functional_call(s.student, (params, buffers()), (images,))
    targets = s.generator([f.detach() if detach_features else f for f in features], exits[-1].detach())
    loss = F.cross_entropy(exits[-1], labels, label_smoothing=label_smoothing)
    for student, target in zip(exits[:-1], targets, strict=True):
        log_t = F.log_softmax(target / temperature, dim=1)
        log_s = F.log_softmax(student / temperature, dim=1)
        kl = (log_t.exp() * (log_t - log_s)).sum(1).mean()
        hard = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
        loss = loss + alpha * hard + (1 - alpha) * temperature**2 * kl
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    fast = {name: value - inner_lr * g for (name, value), g in zip(params.items(), gradients, strict=True)}
    images, labels = s.heldout_batch
    _, exits = functional_call(s.student, (fast, buffers()), (images,))
    outputs = exits[-1:] if heldout == "final" else exits
    loss = sum((F.cross_entropy(logits, labels) for logits in outputs), torch.zeros((), dtype=images.dtype))
    return list(torch.autograd.grad(loss, s.theta_g()))


def relative_error(ours: list[Tensor], oracle: list[Tensor]) -> float:
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, oracle))
    return ((a - b).norm() / b.norm()).item()


def cosine(ours: list[Tensor], theirs: list[Tensor]) -> float:
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, theirs))
    return F.cosine_similarity(a, b, dim=0).item()
