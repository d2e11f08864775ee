"""Direct preference optimization: chosen answers gain on rejected ones, against the model before training.

Shape suffixes: P pairs of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from tunesmith.data.types import Pack
from tunesmith.objectives.base import LossSum, Rows
from tunesmith.objectives.row_scores import pairs_in, reference_sums, row_scores


@dataclass(frozen=True)
class Dpo:
    """The sigmoid loss (Rafailov et al. 2023) or the squared one of IPO (Azar et al. 2023), summed over pairs.

    The reward of an answer is ``beta`` times what its log probability gained over the model before training. The
    squared loss takes log probabilities a token, as its authors do, so that long answers do not outweigh short ones.
    ``label_smoothing`` is the share of pairs taken to be labelled the wrong way (Mitchell 2023).
    """

    beta: float = 0.1
    form: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0

    def companions(self, rows: Rows) -> Rows:  # noqa: ARG002 - each pair is learned by itself
        """None."""
        return ()

    def step_sums(self, model: nn.Module, packs: Sequence[Pack], companions: Sequence[Pack]) -> tuple[float, ...]:  # noqa: ARG002
        """The pairs."""
        return (float(sum(map(pairs_in, packs))),)

    def loss(self, model: nn.Module, pack: Pack, step_sums: Sequence[float]) -> LossSum:  # noqa: ARG002
        """As in :class:`tunesmith.objectives.base.Objective`.

        Raises:
            ModelError: The model has no adapter, and so no reference.
        """
        before_S = reference_sums(model, pack)
        scores = row_scores(model, pack)
        gains_S, wanted_S = scores.sums_S - before_S, scores.wanted_S
        if self.form == "ipo":
            per_token_S = gains_S / scores.tokens_S
            losses_P = (per_token_S[wanted_S] - per_token_S[~wanted_S] - 1 / (2 * self.beta)) ** 2
        else:
            losses_P = self._sigmoid(self.beta * (gains_S[wanted_S] - gains_S[~wanted_S]))
        rewards_S, sums_S = self.beta * gains_S.detach(), scores.sums_S.detach()
        margins_P = rewards_S[wanted_S] - rewards_S[~wanted_S]
        metrics = {
            "reward_accuracy": (margins_P > 0).sum(),
            "reward_margin": margins_P.sum(),
            "chosen_log_likelihood": sums_S[wanted_S].sum(),
            "rejected_log_likelihood": sums_S[~wanted_S].sum(),
        }
        return LossSum(losses_P.sum(), metrics)

    def _sigmoid(self, margins_P: torch.Tensor) -> torch.Tensor:
        right_P, wrong_P = logsigmoid(margins_P), logsigmoid(-margins_P)
        return -(1 - self.label_smoothing) * right_P - self.label_smoothing * wrong_P
