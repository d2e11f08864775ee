"""How likely the rows of a pack are: the log probability of each row's trained tokens, summed.

Shape suffixes: L labels of a pack, S rows of a pack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data.types import Pack
from tunesmith.models.adapters import without_adapter
from tunesmith.objectives.label_loss import next_token_losses


@dataclass(frozen=True)
class RowScores:
    """``sums_S`` is the log probability of each row's answer in nats, ``tokens_S`` its trained tokens.

    ``wanted_S`` marks chosen or wanted answers. Sums are fp32, or fp64 in an fp64 model.
    """

    sums_S: torch.Tensor
    tokens_S: torch.Tensor
    wanted_S: torch.Tensor

    @property
    def means_S(self) -> torch.Tensor:
        """Log probability a token."""
        return self.sums_S / self.tokens_S


def row_scores(model: nn.Module, pack: Pack) -> RowScores:
    """Run a pack through the model, with gradient."""
    losses_L, _ = next_token_losses(model, pack)
    device = losses_L.device
    rows_L = torch.from_numpy(pack.label_rows_L).to(device)
    sums_S = losses_L.new_zeros(len(pack.rows)).index_add(0, rows_L, -losses_L)
    tokens_S = losses_L.new_zeros(len(pack.rows)).index_add(0, rows_L, torch.ones_like(losses_L))
    return RowScores(sums_S, tokens_S, torch.from_numpy(pack.kinds_S).to(device) == 1)


@torch.no_grad()
def reference_sums(model: nn.Module, pack: Pack) -> torch.Tensor:
    """``sums_S`` under the model before training: the same weights with the adapter turned off.

    Raises:
        ModelError: The model has no adapter.
    """
    with without_adapter(model):
        return row_scores(model, pack).sums_S


def pairs_in(pack: Pack) -> int:
    """Pairs of a chosen and a rejected answer in a pack."""
    return len(pack.rows) // 2
