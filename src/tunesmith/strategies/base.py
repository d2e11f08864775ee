"""What a strategy is: how ranks share the work of one optimizer step. The training loop sees nothing else of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import nn


class Strategy(Protocol):
    """How ranks share the work."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""

    @property
    def rank(self) -> int:
        """This process among all, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""

    @property
    def is_main(self) -> bool:
        """True for the one rank that writes events and checkpoints."""

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer as the loop should use them."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one pack; ``loss`` is already divided by the trained tokens of the whole step."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Scale gradients down to a total norm of at most ``max_norm``; the norm before that, over all ranks."""

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks."""
