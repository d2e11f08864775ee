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
from tunesmith.models.forward import label_logits, label_states, written_logits
from tunesmith.models.heads import head_logits
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.cross_entropy import projected_losses, token_losses

# A model, a pack and a label smoothing to the loss of each label, ``[L]``, and whether it got the highest score.
Losses = Callable[[Any, Pack, float], tuple[torch.Tensor, torch.Tensor]]


def next_token_losses(model: Any, pack: Pack, smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of next tokens (sft, text)."""
    states = label_states(model, pack)
    if states is None:
        return _of_scores(label_logits(model, pack), pack, smoothing)
    states_L_H, matrix_V_H = states
    return projected_losses(states_L_H, matrix_V_H, _labels(pack, states_L_H), smoothing)


def written_token_losses(model: Any, pack: Pack, smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of tokens that a model with encoder and decoder writes."""
    return _of_scores(written_logits(model, pack), pack, smoothing)


def head_losses(model: Any, pack: Pack, smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of classes of rows or words."""
    return _of_scores(head_logits(model, pack), pack, smoothing)


def _of_scores(scores_L_C: torch.Tensor, pack: Pack, smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    return token_losses(scores_L_C, _labels(pack, scores_L_C), smoothing)


def _labels(pack: Pack, beside: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(pack.labels_L).to(beside.device)


@dataclass(frozen=True)
class LabelLoss:
    """Cross entropy summed over the labels; ``accuracy`` counts labels that got the highest score.

    ``losses`` says what the labels are of: :func:`next_token_losses`, :func:`written_token_losses` or
    :func:`head_losses`.
    """

    label_smoothing: float = 0.0
    losses: Losses = next_token_losses

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each row is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The labels."""
        return (float(sum(len(pack.labels_L) for pack in packs)),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`."""
        losses_L, hits_L = self.losses(model, pack, self.label_smoothing)
        return LossSum(losses_L.sum(), {"accuracy": hits_L.sum()})


@torch.no_grad()
def label_losses(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Cross entropy of each next token of a pack in nats, ``losses_L`` in fp32, in the order of ``pack.labels_L``."""
    return next_token_losses(model, pack)[0]
