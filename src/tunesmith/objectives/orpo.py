"""Odds ratio preference optimization: chosen answers are learned, and rejected ones made less likely than they are.

Shape suffixes: S rows of a pack, P pairs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from tunesmith.data.types import Pack
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.row_scores import pairs_in, row_scores

# The largest log probability a token whose odds are finite in fp32.
_NEARLY_CERTAIN = -1e-7


@dataclass(frozen=True)
class Orpo:
    """Cross entropy of chosen answers plus ``beta`` times the odds ratio loss (Hong et al. 2024).

    The first part is a mean over all chosen tokens of the step, the second a mean over its pairs, with log
    probabilities averaged over the tokens of an answer.
    """

    beta: float = 0.1

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each pair is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The pairs, and the tokens of chosen answers."""
        chosen_tokens = sum(int((pack.kinds_S[pack.label_rows_L] == 1).sum()) for pack in packs)
        return float(sum(map(pairs_in, packs))), float(chosen_tokens)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:
        """As in :class:`tunesmith.objectives.base.Objective`."""
        pairs, chosen_tokens = step_sums[:2]
        scores = row_scores(model, pack)
        odds_S, wanted_S = _log_odds(scores.means_S), scores.wanted_S
        ratios_P = odds_S[wanted_S] - odds_S[~wanted_S]
        # The engine divides by pairs; the cross entropy is a mean over tokens.
        learned = -scores.sums_S[wanted_S].sum() * (pairs / chosen_tokens)
        sums_S, means_S = scores.sums_S.detach(), scores.means_S.detach()
        metrics = {
            "cross_entropy": learned.detach(),
            "pair_accuracy": (means_S[wanted_S] > means_S[~wanted_S]).sum(),
            "log_odds_ratio": ratios_P.detach().sum(),
            "chosen_log_likelihood": sums_S[wanted_S].sum(),
            "rejected_log_likelihood": sums_S[~wanted_S].sum(),
        }
        return LossSum(learned - self.beta * logsigmoid(ratios_P).sum(), metrics)


def _log_odds(means_S: torch.Tensor) -> torch.Tensor:
    """The logarithm of p / (1 - p), from log p."""
    means_S = means_S.clamp(max=_NEARLY_CERTAIN)
    return means_S - torch.log(-torch.expm1(means_S))
