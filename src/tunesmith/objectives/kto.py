"""Kahneman-Tversky optimization: wanted and unwanted answers, which need not come in pairs.

Shape suffixes: T tokens of a row, S rows of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tunesmith.data.types import Pack, TokenRow
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.row_scores import reference_sums, row_scores


@dataclass(frozen=True)
class Kto:
    """The loss of Ethayarajh et al. (2024), summed over rows.

    An answer's reward is what its log probability gained over the model before training. Wanted answers should gain
    more than the model drifts anyway, unwanted ones less. That drift (a KL divergence) is estimated over the whole
    step from prompts with the answer of another item, and counts as 0 where the estimate is negative or the step has
    one item only.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def companions(self, rows: Rows) -> Rows:
        """Each row's prompt with the answer of the next item's row at the same place, the last with the first.

        None is longer than the longest row of the step; what is longer loses the end of its answer.
        """
        items = list(dict.fromkeys(item for item, _ in rows))
        if len(items) < 2:
            return ()
        following = dict(zip(items, [*items[1:], items[0]], strict=True))
        by_item: dict[int, list[TokenRow]] = {item: [] for item in items}
        for item, row in rows:
            by_item[item].append(row)
        longest = max(len(row.token_ids_T) for _, row in rows)
        return [
            (item, _mismatched(row, other, longest))
            for item in items
            for row, other in zip(by_item[item], by_item[following[item]], strict=True)
        ]

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:
        """The rows, the wanted ones, the companions' summed gains, and how many companions there are.

        Raises:
            ModelError: The model has no adapter, and so no reference.
        """
        gains = 0.0
        for pack in companions:
            gains += float((row_scores(model, pack).sums_S - reference_sums(model, pack)).sum())
        wanted = sum(int((pack.kinds_S == 1).sum()) for pack in packs)
        rows = sum(len(pack.rows) for pack in packs)
        return float(rows), float(wanted), gains, float(sum(len(pack.rows) for pack in companions))

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:
        """As in :class:`tunesmith.objectives.base.Objective`; errors as :meth:`step_sums`."""
        rows, wanted, drift_sum, drift_rows = step_sums
        drift = max(0.0, drift_sum / drift_rows) if drift_rows else 0.0
        before_S = reference_sums(model, pack)
        scores = row_scores(model, pack)
        gains_S, wanted_S = scores.sums_S - before_S, scores.wanted_S
        signs_S = torch.where(wanted_S, 1.0, -1.0).to(gains_S)
        weights_S = torch.where(wanted_S, self.desirable_weight, self.undesirable_weight).to(gains_S)
        losses_S = weights_S * (1 - torch.sigmoid(self.beta * signs_S * (gains_S - drift)))
        rewards_S = self.beta * gains_S.detach()
        metrics = {
            "reward_accuracy": ((rewards_S > 0) == wanted_S).sum(),
            "drift": rewards_S.new_tensor(drift * len(pack.rows)),
        }
        if 0 < wanted < rows:
            # The engine divides by all rows; these are means over the wanted and over the unwanted ones.
            metrics["desirable_reward"] = rewards_S[wanted_S].sum() * (rows / wanted)
            metrics["undesirable_reward"] = rewards_S[~wanted_S].sum() * (rows / (rows - wanted))
        return LossSum(losses_S.sum(), metrics)


def _mismatched(row: TokenRow, other: TokenRow, longest: int) -> TokenRow:
    """The prompt of one row with the answer of another."""
    prompt, answer = int(row.trained_T.argmax()), int(other.trained_T.argmax())
    ids_T = np.concatenate([row.token_ids_T[:prompt], other.token_ids_T[answer:]])[:longest]
    trained_T = np.concatenate([row.trained_T[:prompt], other.trained_T[answer:]])[:longest]
    return TokenRow(ids_T, trained_T, row.place, kind=row.kind)
