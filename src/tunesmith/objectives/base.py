"""What an objective is: it turns a pack into a sum of losses that the engine divides once a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from tunesmith.data.types import Pack


@dataclass(frozen=True)
class LossSum:
    """The loss of one pack before any division.

    ``total`` is a scalar with gradient, summed over the ``count`` labels of the pack. ``metrics`` are sums over the
    same labels, kept on the model's device so that a step needs one transfer and not one a pack; the engine divides
    them as it divides the loss.
    """

    total: torch.Tensor
    count: int
    metrics: dict[str, torch.Tensor]


class Objective(Protocol):
    """Which loss is minimised."""

    def loss(self, model: nn.Module, pack: Pack) -> LossSum:
        """Run the pack through the model and sum its losses."""
