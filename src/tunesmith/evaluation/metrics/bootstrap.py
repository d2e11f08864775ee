"""The bootstrap: how far a number could have been off, had other rows of the same kind been held out."""

from __future__ import annotations

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Array, Metric, Rows

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_ELEMENTS = 4_000_000


def resampled_sums(statistics: Array, seed: int, resamples: int = RESAMPLES) -> Array:
    """Sums of statistics over rows drawn with replacement; (rows, k) in, (resamples, k) out.

    How often each row was drawn is a matrix, so the sums are one product; large sets are worked off in pieces. The
    draws depend on the seed and the number of rows alone, so two systems with equal rows are resampled alike.
    """
    rows, columns = statistics.shape
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, columns))
    piece = max(1, _CHUNK_ELEMENTS // rows)
    for start in range(0, resamples, piece):
        count = min(piece, resamples - start)
        drawn = generator.integers(0, rows, size=(count, rows)) + np.arange(count)[:, None] * rows
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        sums[start : start + count] = times.astype(np.float64) @ statistics
    return sums


def interval(metric: Metric, rows: Rows, seed: int, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Value, low and high of a metric: the percentile bootstrap at 95 %.

    When every row is right or every row is wrong, resampling shows no spread at all, which would claim certainty from
    a handful of rows; there the exact binomial bound stands in.
    """
    value = float(metric.value(rows.statistics.sum(axis=0, keepdims=True))[0])
    low, high = _percentiles(metric.value(resampled_sums(rows.statistics, seed, resamples)))
    if metric.proportion and value in (0.0, 1.0):
        bound = _certain_bound(len(rows.statistics))
        return value, (bound if value else 0.0), (1.0 if value else 1 - bound)
    return value, low, high


def difference(
    metric: Metric, first: Rows, second: Rows, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Value, low and high of second minus first, drawing the same rows for both.

    Raises:
        UsageError: ``metrics.not_paired``: the two are not of the same rows.
    """
    if first.statistics.shape != second.statistics.shape:
        raise UsageError(
            "only systems that answered the same rows can be compared",
            code="metrics.not_paired",
            value=f"{first.statistics.shape} and {second.statistics.shape}",
        )
    columns = first.statistics.shape[1]
    both = np.concatenate([first.statistics, second.statistics], axis=1)
    total = both.sum(axis=0, keepdims=True)
    change = _subtract(metric.value(total[:, columns:]), metric.value(total[:, :columns]))
    sums = resampled_sums(both, seed, resamples)
    low, high = _percentiles(_subtract(metric.value(sums[:, columns:]), metric.value(sums[:, :columns])))
    if metric.proportion and abs(change[0]) == 1:
        bound = _certain_bound(len(both))
        low, high = (bound, 1.0) if change[0] > 0 else (-1.0, -bound)
    return float(change[0]), low, high


def _certain_bound(rows: int) -> float:
    """The lowest true share that lets all of the rows be right with a chance of 2.5 %."""
    return float(((1 - CONFIDENCE) / 2) ** (1 / rows))


def _subtract(second: Array, first: Array) -> Array:
    """Second minus first; two infinite perplexities differ by nothing known, which is NaN without a warning."""
    with np.errstate(invalid="ignore"):
        result: Array = second - first
    return result


def _percentiles(values: Array) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    # The nearest drawn value, not one between two: between two infinities there is none.
    low, high = np.percentile(values, [tail, 100 - tail], method="nearest")
    return float(low), float(high)
