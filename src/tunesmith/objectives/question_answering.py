"""Extractive question answering: where in the text the answer starts and where it ends (Devlin et al. 2019).

A row's labels stand at the tokens of its text, the candidates. The probability that the answer starts at a candidate
is a softmax over the candidates of the row alone, and likewise for its end; the loss of a row is the mean of both.

Shape suffixes: L candidates of a pack, C the two marks (start, end), S rows of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data.types import Pack
from tunesmith.models.heads import head_logits
from tunesmith.objectives.base import LossSum, Rows

# Bits of the label of a candidate.
STARTS, ENDS = 1, 2


@dataclass(frozen=True)
class QuestionAnswering:
    """Loss summed over rows; ``accuracy`` counts rows whose start and end both got the highest score."""

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The rows."""
        return (float(sum(len(pack.rows) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        losses_L, hits_L = answer_losses(model, pack)
        rows_L = torch.from_numpy(pack.label_rows_L).to(losses_L.device)
        # A row has two marks, each hit or not.
        hits_S = torch.zeros(len(pack.rows), device=losses_L.device).index_add_(0, rows_L, hits_L)
        return LossSum(losses_L.sum(), {"accuracy": (hits_S == 2).sum()})


def answer_losses(model: nn.Module, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    """``losses_L`` that add up to the loss of each row, and ``hits_L``: how many marks of a candidate are right.

    Losses are in nats, half of a mark's own, and 0 where nothing is marked.
    """
    scores_L_C = head_logits(model, pack)
    scores_L_C = scores_L_C.to(torch.promote_types(scores_L_C.dtype, torch.float32))
    rows_L = torch.from_numpy(pack.label_rows_L).to(scores_L_C.device)
    labels_L = torch.from_numpy(pack.labels_L).to(scores_L_C.device)
    rows = len(pack.rows)
    losses_L, hits_L = torch.zeros_like(scores_L_C[:, 0]), torch.zeros(len(labels_L), device=scores_L_C.device)
    for column, bit in enumerate((STARTS, ENDS)):
        scores_L = scores_L_C[:, column]
        highest_S = torch.full((rows,), float("-inf"), dtype=scores_L.dtype, device=scores_L.device)
        highest_S = highest_S.scatter_reduce(0, rows_L, scores_L.detach(), "amax")
        sums_S = torch.zeros_like(highest_S).index_add(0, rows_L, (scores_L - highest_S[rows_L]).exp())
        marked_L = (labels_L & bit) > 0
        log_sums_L = sums_S.log()[rows_L] + highest_S[rows_L]
        losses_L = losses_L + torch.where(marked_L, log_sums_L - scores_L, 0.0) / 2
        hits_L = hits_L + (marked_L & (scores_L >= highest_S[rows_L]))
    return losses_L, hits_L
