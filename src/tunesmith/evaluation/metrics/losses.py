"""Held-out loss and perplexity from the summed loss and the count of trained tokens of each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Array, Rows, divide, ratio_value


def loss_rows(loss_sums: Sequence[float], token_counts: Sequence[int]) -> Rows:
    """Rows of token losses: (summed loss in nats, trained tokens). Long rows weigh more, as in training.

    Raises:
        UsageError: The lists differ in length, are empty, or hold no token at all.
    """
    if len(loss_sums) != len(token_counts):
        raise UsageError(
            "every loss needs its count of tokens",
            code="metrics.lengths",
            value=f"{len(loss_sums)} losses, {len(token_counts)} counts",
        )
    sums, counts = np.asarray(loss_sums, dtype=np.float64), np.asarray(token_counts, dtype=np.float64)
    if not counts.sum() > 0:
        raise UsageError("no held-out token to measure a loss on", code="metrics.no_rows")
    return Rows(np.stack([sums, counts], axis=1), divide(sums, counts))


def perplexity_value(sums: Array) -> Array:
    """The exponential of the loss; infinite where that is too large for a number."""
    with np.errstate(over="ignore"):
        result: Array = np.exp(ratio_value(sums))
    return result
