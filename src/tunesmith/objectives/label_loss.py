"""The cross entropy of labels, wherever their scores come from: next tokens, written texts, classes of rows or words.

Shape suffixes: L labels of a pack, C what there is to choose from (the vocabulary, or the classes of a head).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.data.types import Pack
from tunesmith.models.forward import label_logits, written_logits
from tunesmith.models.heads import head_logits
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.cross_entropy import token_losses

# A model and a pack to the scores of its labels, ``[L, C]``.
Scores = Callable[[Any, Pack], torch.Tensor]


@dataclass(frozen=True)
class LabelLoss:
    """Cross entropy summed over the labels; ``accuracy`` counts labels that got the highest score.

    ``scores`` is what the labels are of: ``label_logits`` for next tokens (sft, text), ``written_logits`` for models
    with encoder and decoder, ``head_logits`` for classes of rows or words.
    """

    label_smoothing: float = 0.0
    scores: Scores = label_logits

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The labels."""
        return (float(sum(len(pack.labels_L) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        losses_L, hits_L = _losses(self.scores, model, pack, self.label_smoothing)
        return LossSum(losses_L.sum(), {"accuracy": hits_L.sum()})


@torch.no_grad()
def label_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Cross entropy of each next token of a pack in nats, ``losses_L`` in fp32, in the order of ``pack.labels_L``."""
    return _losses(label_logits, model, pack, 0.0)[0]


@torch.no_grad()
def written_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Likewise of each token that a decoder writes."""
    return _losses(written_logits, model, pack, 0.0)[0]


@torch.no_grad()
def class_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Likewise of each label of a head that classifies rows or words."""
    return _losses(head_logits, model, pack, 0.0)[0]


def _losses(scores: Scores, model: nn.Module, pack: Pack, smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits_L_C = scores(model, pack)
    return token_losses(logits_L_C, torch.from_numpy(pack.labels_L).to(logits_L_C.device), smoothing)
