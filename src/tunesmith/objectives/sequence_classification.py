"""One label for each row: the cross entropy of a head's classes, a row counting as one whatever its length.

Shape suffixes: L labels of a pack (one a row), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data.types import Pack
from tunesmith.models.heads import head_logits
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.cross_entropy import token_losses


@dataclass(frozen=True)
class SequenceClassification:
    """Cross entropy summed over rows; ``accuracy`` counts rows whose label got the highest score."""

    label_smoothing: float = 0.0

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The rows."""
        return (float(sum(len(pack.labels_L) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        logits_L_C = head_logits(model, pack)
        labels_L = torch.from_numpy(pack.labels_L).to(logits_L_C.device)
        losses_L, hits_L = token_losses(logits_L_C, labels_L, self.label_smoothing)
        return LossSum(losses_L.sum(), {"accuracy": hits_L.sum()})


@torch.no_grad()
def class_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Cross entropy of each label of a pack in nats, ``losses_L``, for heads that classify rows or tokens."""
    logits_L_C = head_logits(model, pack)
    return token_losses(logits_L_C, torch.from_numpy(pack.labels_L).to(logits_L_C.device))[0]
