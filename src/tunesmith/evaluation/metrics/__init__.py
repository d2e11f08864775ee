"""Task metrics with bootstrap intervals, and the paired verdict between two systems."""

from tunesmith.evaluation.metrics.losses import loss_rows
from tunesmith.evaluation.metrics.pairs import pair_rows
from tunesmith.evaluation.metrics.score import (
    MINIMUM_ROWS,
    compare_paired,
    details,
    measure,
    score,
    score_losses,
    summarise,
)
from tunesmith.evaluation.metrics.table import METRICS, find_metric
from tunesmith.evaluation.metrics.types import Metric, Rows

__all__ = [
    "METRICS",
    "MINIMUM_ROWS",
    "Metric",
    "Rows",
    "compare_paired",
    "details",
    "find_metric",
    "loss_rows",
    "measure",
    "pair_rows",
    "score",
    "score_losses",
    "summarise",
]
