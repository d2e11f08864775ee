"""Counts of tokens and how long rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.store import TokenStore
from tunesmith.data.types import TokenIds

SMALLEST_BUCKET = 16


@dataclass(frozen=True)
class Bucket:
    """Rows of more tokens than the bucket before allows, and at most ``up_to``."""

    up_to: int
    rows: int


@dataclass(frozen=True)
class TokenStatistics:
    """Rows, tokens and trained tokens of a set; the longest and the mean row in tokens; rows by length."""

    rows: int
    total: int
    trained: int
    longest: int
    mean: float
    histogram: tuple[Bucket, ...]

    def to_json(self) -> dict[str, Any]:
        """As in audit.json."""
        buckets = [{"up_to": bucket.up_to, "rows": bucket.rows} for bucket in self.histogram]
        return {
            "rows": self.rows,
            "total": self.total,
            "trained": self.trained,
            "longest": self.longest,
            "mean": self.mean,
            "histogram": buckets,
        }


def token_statistics(rows: TokenStore) -> TokenStatistics:
    """Statistics of a token set."""
    lengths_B = rows.lengths_B
    count = len(rows)
    return TokenStatistics(
        rows=count,
        total=int(lengths_B.sum()),
        trained=int(rows.trained_counts_B.sum()),
        longest=int(lengths_B.max()) if count else 0,
        mean=float(lengths_B.mean()) if count else 0.0,
        histogram=length_histogram(lengths_B),
    )


def length_histogram(lengths_B: TokenIds) -> tuple[Bucket, ...]:
    """Rows by length in buckets that double, from the first bucket with a row to the last."""
    if not len(lengths_B):
        return ()
    bounds = [SMALLEST_BUCKET]
    while bounds[-1] < lengths_B.max():
        bounds.append(2 * bounds[-1])
    counts = np.bincount(np.searchsorted(bounds, lengths_B, side="left"), minlength=len(bounds))
    first = int(np.flatnonzero(counts)[0])
    return tuple(Bucket(bound, int(rows)) for bound, rows in list(zip(bounds, counts, strict=True))[first:])
