"""Cross entropy of what a model with encoder and decoder writes.

A row holds the text that the encoder reads and, from its first trained token on, the text that the decoder writes.

Shape suffixes: L labels of a pack, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data.types import Pack
from tunesmith.models.forward import written_logits
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.cross_entropy import token_losses


@dataclass(frozen=True)
class Seq2seq:
    """Cross entropy summed over the written tokens; ``accuracy`` counts those that got the highest score."""

    label_smoothing: float = 0.0

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The written tokens."""
        return (float(sum(len(pack.labels_L) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        losses_L, hits_L = _losses(model, pack, self.label_smoothing)
        return LossSum(losses_L.sum(), {"accuracy": hits_L.sum()})


@torch.no_grad()
def written_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Cross entropy of each written token of a pack in nats, ``losses_L`` in the order of ``pack.labels_L``."""
    return _losses(model, pack, 0.0)[0]


def _losses(model: nn.Module, pack: Pack, smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits_L_V = written_logits(model, pack)
    return token_losses(logits_L_V, torch.from_numpy(pack.labels_L).to(logits_L_V.device), smoothing)
