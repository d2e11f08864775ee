"""Pairs of a chosen and a rejected answer, from the mean log probability a token of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Array, Metric, Rows, mean_rows, ratio_value

PAIR_METRICS = (
    Metric("pair_accuracy", "Chosen answer likelier", "share", True, "pairs", ratio_value, proportion=True),
    Metric("margin", "Margin of the chosen answer", "nats", True, "pairs", ratio_value),
)


def pair_rows(metric: str, pair_scores_B: Sequence[tuple[float, float]]) -> Rows:
    """The rows of one system: for ``pair_accuracy`` whether the chosen answer is the likelier, else by how much.

    Raises:
        UsageError: There is no pair, or the metric is not one of pairs.
    """
    if not pair_scores_B:
        raise UsageError("no pairs to score", code="metrics.no_rows")
    scores: Array = np.asarray(pair_scores_B, dtype=np.float64)
    margins_B = scores[:, 0] - scores[:, 1]
    if metric == "pair_accuracy":
        return mean_rows((margins_B > 0).astype(np.float64).tolist())
    if metric == "margin":
        return mean_rows(margins_B.tolist())
    raise UsageError("this metric is not one of pairs", code="metrics.not_pairs", value=metric)
