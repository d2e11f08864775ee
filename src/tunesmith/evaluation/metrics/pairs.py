"""Pairs of a chosen and a rejected answer, and rated answers, from the mean log probability a token of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Array, Metric, Rows, divide, mean_rows, ratio_value

# Of each row the chosen or wanted answer, and the rejected or unwanted one; rated rows have one of the two.
AnswerScores = Sequence[tuple[float | None, float | None]]


def _difference_of_means(sums: Array) -> Array:
    """The mean of the wanted answers less that of the unwanted ones."""
    return divide(sums[:, 0], sums[:, 1]) - divide(sums[:, 2], sums[:, 3])


PAIR_METRICS = (
    Metric("pair_accuracy", "Chosen answer likelier", "share", True, "pairs", ratio_value, proportion=True),
    Metric("margin", "Margin of the chosen answer", "nats", True, "pairs", ratio_value),
    Metric("wanted_likelier", "Wanted answers likelier", "share", True, "pairs", ratio_value),
    Metric("wanted_margin", "Margin of wanted answers", "nats", True, "pairs", _difference_of_means),
)


def can_be_compared(scores_B: AnswerScores) -> bool:
    """Whether there are answers of both kinds."""
    return any(wanted is not None for wanted, _ in scores_B) and any(unwanted is not None for _, unwanted in scores_B)


def pair_rows(metric: str, pair_scores_B: AnswerScores) -> Rows:
    """The rows of one system.

    ``pair_accuracy`` is whether the chosen answer is the likelier, ``margin`` by how much. Of rated answers
    ``wanted_likelier`` is the share of those of the other kind that each is on the right side of, whose mean is the
    area under the ROC curve, and ``wanted_margin`` the difference of both kinds' means.

    Raises:
        UsageError: There is no pair, or no answer of one kind, or the metric is not one of these.
    """
    if not can_be_compared(pair_scores_B):
        raise UsageError("no pairs to score", code="metrics.no_rows")
    scores: Array = np.array(pair_scores_B, dtype=np.float64)
    if metric == "pair_accuracy":
        return mean_rows((scores[:, 0] > scores[:, 1]).astype(np.float64).tolist())
    if metric == "margin":
        return mean_rows((scores[:, 0] - scores[:, 1]).tolist())
    if metric == "wanted_likelier":
        return mean_rows(_right_sides(scores).tolist())
    if metric == "wanted_margin":
        is_there = ~np.isnan(scores)
        known = np.where(is_there, scores, 0.0)
        columns = [known[:, 0], is_there[:, 0], known[:, 1], is_there[:, 1]]
        return Rows(np.stack(columns, axis=1).astype(np.float64), np.nansum(scores, axis=1))
    raise UsageError("this metric is not one of pairs", code="metrics.not_pairs", value=metric)


def _right_sides(scores: Array) -> Array:
    """For each rated row the share of the other kind's rows that are less likely than it, or likelier if unwanted."""
    wanted, unwanted = (np.sort(side[~np.isnan(side)]) for side in scores.T)
    # Equal ones count as half, as under the curve.
    below = (np.searchsorted(unwanted, scores[:, 0], "left") + np.searchsorted(unwanted, scores[:, 0], "right")) / 2
    above = len(wanted) - (
        (np.searchsorted(wanted, scores[:, 1], "left") + np.searchsorted(wanted, scores[:, 1], "right")) / 2
    )
    return np.where(np.isnan(scores[:, 1]), below / len(unwanted), above / len(wanted))
