"""One process, one device: plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.strategies.base import State
from tunesmith.strategies.gradients import clip_gradients


@dataclass(frozen=True)
class Single:
    """The whole step on one device; see :class:`tunesmith.strategies.base.Strategy` for each method."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    is_main: bool = True
    keeps_whole: bool = True

    def share_out(self, model: nn.Module) -> nn.Module:
        """The model as it is, on its device already."""
        return model

    def backward(self, loss: torch.Tensor) -> None:
        """Plain backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing: there is one rank."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Total norm of the gradients, which are scaled where it exceeds ``max_norm``; one transfer to the host."""
        return clip_gradients(parameters, max_norm)

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The values: there is one rank."""
        return list(values)

    def agree(self, value: Any) -> Any:
        """The value."""
        return value

    def gather(self, state: Mapping[str, torch.Tensor]) -> State:
        """The tensors."""
        return dict(state)

    def scatter(self, state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> State:  # noqa: ARG002
        """The tensors."""
        return dict(state)
