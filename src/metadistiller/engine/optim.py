"""Learning rates as a function of the place in training, and one optimizer for each player."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Optim, milestone_epoch
from ..methods import Player


def rate_factor(optim: Optim, *, epochs: int, epoch: int, progress: float) -> float:
    """What all learning rates are multiplied by: those of S and of G, and zeta, drop together (sec. 4.1).

    Args:
        epochs: of the whole run.
        epoch: from 0.
        progress: share of the epoch's steps done, 0 to below 1.
    Returns: the schedule's factor times the warm-up's, 0 to 1.
    """
    now = epoch + progress
    warm = min(1.0, (now + 1e-9) / optim.warmup_epochs) if optim.warmup_epochs else 1.0
    match optim.schedule:
        case "constant":
            return warm
        case "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * now / epochs))
        case "step":
            # Drops happen between epochs: after 80 full ones, the next is the first at the lower rate.
            passed = sum(epoch >= milestone_epoch(m, epochs) for m in optim.milestones)
            return warm * optim.gamma**passed


class PlayerOptimizer:
    """The optimizer of one player, with its state by parameter name.

    Args:
        player: whose parameters move.
        optim: the run's settings.
        body: parameters that optim.backbone_lr_factor is for.
    """

    def __init__(self, player: Player, optim: Optim, body: Iterable[nn.Parameter] = ()) -> None:
        self.lr = optim.lr if player.lr is None else player.lr
        self._params = {name: p for name, p in player.module.named_parameters() if p.requires_grad}
        self._clip_norm = optim.clip_norm
        self._moved: frozenset[str] = frozenset()
        params = self._groups({id(p) for p in body}, optim.backbone_lr_factor)
        self._optimizer: torch.optim.Optimizer
        match player.optimizer:
            case "sgd":
                self._optimizer = torch.optim.SGD(
                    params,
                    lr=self.lr,
                    momentum=optim.momentum,
                    nesterov=optim.nesterov,
                    weight_decay=optim.weight_decay,
                    fused=True,
                )
            case "adam":
                self._optimizer = torch.optim.Adam(
                    params, lr=self.lr, betas=optim.adam_betas, eps=optim.adam_eps, fused=True
                )

    def _groups(self, body: set[int], factor: float) -> list[dict[str, Any]]:
        """One where all have the same rate; `share` is that of the player's rate."""
        shares = {factor if id(p) in body else 1.0: None for p in self._params.values()}
        return [
            {
                "params": [p for p in self._params.values() if (factor if id(p) in body else 1.0) == share],
                "share": share,
            }
            for share in shares
        ]

    def differentiate(self, loss: Tensor) -> None:
        """Leave the gradient of `loss` in .grad of this player's parameters."""
        # Only this player's gradients are made: another's .grad is never written, not even with zeros.
        torch.autograd.backward(loss, inputs=list(self._params.values()))

    def gradients(self) -> list[Tensor]:
        """What is in .grad, of the parameters that have one."""
        return [p.grad for p in self._params.values() if p.grad is not None]

    def move(self, *, factor: float) -> Tensor:
        """One update along what is in .grad, which is then gone; returns its norm before clipping, a scalar."""
        params = list(self._params.values())
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(params, self._clip_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * group["share"] * factor
        moved = frozenset(name for name, p in self._params.items() if p.grad is not None)
        if moved != self._moved:
            self._moved = moved
            self._begin_momenta()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _begin_momenta(self) -> None:
        """Zero momenta for parameters that join others on their way.

        The fused SGD takes momenta of all parameters or of none. A first step from a momentum of zero is the same step.
        """
        moved = [self._params[name] for name in self._moved]
        under_way = [p for p in moved if self._optimizer.state.get(p, {}).get("momentum_buffer") is not None]
        if under_way and isinstance(self._optimizer, torch.optim.SGD):
            for p in moved:
                if self._optimizer.state[p].get("momentum_buffer") is None:
                    self._optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def state(self) -> dict[str, Tensor]:
        """Momenta and averages by "parameter/key"."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, param in self._params.items()
            for key, value in self._optimizer.state.get(param, {}).items()
            if value is not None
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave. The caller has checked that the names are this player's."""
        for joined, value in state.items():
            name, key = joined.rsplit("/", 1)
            param = self._params[name]
            # Adam counts steps in a scalar; everything else has the parameter's layout.
            like = param if value.shape == param.shape else value
            self._optimizer.state[param][key] = torch.empty_like(like, device=param.device).copy_(value)
