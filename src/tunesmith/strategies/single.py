"""One process, one device: plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Single:
    """The whole step on one device; see :class:`tunesmith.strategies.base.Strategy` for each method."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    is_main: bool = True

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both as they are; the model is on its device already."""
        return model, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        """Plain backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Total norm of the gradients, which are scaled where it exceeds ``max_norm``; one transfer to the host."""
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
        return float(norm)

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The values: there is one rank."""
        return list(values)
