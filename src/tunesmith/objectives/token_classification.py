"""One tag for each word: the cross entropy of a head's tags at the tokens that stand for words.

Shape suffixes: L labels of a pack (one a word), C tags.
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
class TokenClassification:
    """Cross entropy summed over words; ``accuracy`` counts words whose tag got the highest score."""

    label_smoothing: float = 0.0

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The words."""
        return (float(sum(len(pack.labels_L) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        logits_L_C = head_logits(model, pack)
        labels_L = torch.from_numpy(pack.labels_L).to(logits_L_C.device)
        losses_L, hits_L = token_losses(logits_L_C, labels_L, self.label_smoothing)
        return LossSum(losses_L.sum(), {"accuracy": hits_L.sum()})
