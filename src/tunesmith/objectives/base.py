"""What an objective is: it turns packs into sums of losses that the engine divides once a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from tunesmith.data.types import Pack, TokenRow

Rows = Sequence[tuple[int, TokenRow]]


@dataclass(frozen=True)
class LossSum:
    """The loss of one pack before any division.

    ``total`` is a scalar with gradient. ``metrics`` are sums over what :meth:`Objective.step_sums` counts first, kept
    on the model's device so that a step needs one transfer and not one a pack; the engine divides them as it divides
    the loss.
    """

    total: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Objective(Protocol):
    """Which loss is minimised."""

    def companions(self, rows: Rows) -> Rows:
        """Rows that no gradient comes from, but whose scores the loss of a step depends on; mostly none.

        Args:
            rows: Item and tokens of all rows of the step, whatever rank they go to.
        """

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:
        """What the loss must know of a whole step, as sums over this rank's packs; the engine adds up all ranks.

        The first number is what the summed loss is divided by: labels, rows or pairs. Called before :meth:`loss`, in
        the precision of the step, without gradient.
        """

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:
        """Run the pack through the model and sum its losses; ``step_sums`` are those of the whole step."""
