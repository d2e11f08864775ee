"""Scores of systems and the verdict between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.bootstrap import difference, interval
from tunesmith.evaluation.metrics.losses import loss_rows
from tunesmith.evaluation.metrics.table import find_metric
from tunesmith.evaluation.metrics.types import Metric, Rows

# Below this a paired bootstrap calls a lucky handful of rows a fact.
MINIMUM_ROWS = 10


def measure(metric: str, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str] = ()) -> Rows:
    """The rows of one system under one metric: ``scores`` marks single answers, the whole goes to compare_paired.

    Raises:
        UsageError: The metric is unknown or needs token losses, or rows and references do not fit.
    """
    found = find_metric(metric)
    if found.measure is None:
        raise UsageError(
            "this metric is computed from likelihoods, not from answers", code="metrics.needs_losses", value=metric
        )
    return found.measure(predictions, references, labels)


def score(
    metric_names: Sequence[str],
    predictions: Sequence[Any],
    references: Sequence[Any],
    labels: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Each metric's value with its 95 % interval: ``{name: {"value", "low", "high", "higher_is_better"}}``.

    Args:
        metric_names: Names of the table.
        predictions: One answer a row.
        references: One reference a row: a text, a list of accepted texts, spans or tags, as the metric needs.
        labels: The label set of a classification; labels of the references are added.
        seed: Of the bootstrap.

    Raises:
        UsageError: As in :func:`measure`.
    """
    return {
        name: summarise(name, measure(name, predictions, references, labels), seed)
        for name in dict.fromkeys(metric_names)
    }


def summarise(metric: str, rows: Rows, seed: int = 0) -> dict[str, Any]:
    """One metric of rows that were measured before, in the form of :func:`score`."""
    found = find_metric(metric)
    value, low, high = interval(found, rows, seed)
    return {"value": value, "low": low, "high": high, "higher_is_better": found.higher_is_better}


def details(
    metric_names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What stands behind the metrics: tables of classes, labels or fields, invalid answers, signatures.

    Of one table that several metrics have, the first metric's counts.
    """
    functions = dict.fromkeys(function for name in metric_names if (function := find_metric(name).details))
    merged: dict[str, Any] = {}
    for function in functions:
        merged = function(predictions, references, labels) | merged
    return merged


def score_losses(loss_sums: Sequence[float], token_counts: Sequence[int], seed: int = 0) -> dict[str, dict[str, float]]:
    """Loss (nats a token) and perplexity with 95 % intervals, rows resampled whole.

    Returns:
        ``{"loss": {"value", "low", "high"}, "perplexity": {...}}``

    Raises:
        UsageError: As in :func:`tunesmith.evaluation.metrics.losses.loss_rows`.
    """
    rows = loss_rows(loss_sums, token_counts)
    named = {}
    for name in ("loss", "perplexity"):
        value, low, high = interval(find_metric(name), rows, seed)
        named[name] = {"value": value, "low": low, "high": high}
    return named


def compare_paired(metric: str, base_rows: Rows, tuned_rows: Rows, seed: int = 0) -> dict[str, Any]:
    """The verdict between two systems on the same rows, by a paired bootstrap of the difference at 95 %.

    ``difference``, ``low`` and ``high`` are tuned minus base in the metric's own unit; ``decided`` says that the
    interval leaves out "no difference" and that there were at least ten rows.

    Raises:
        UsageError: The systems did not answer the same rows.
    """
    found = find_metric(metric)
    change, low, high = difference(found, base_rows, tuned_rows, seed)
    rows = len(base_rows.statistics)
    decided = rows >= MINIMUM_ROWS and (low > 0 or high < 0)
    return {
        "metric": metric,
        "base": float(found.value(base_rows.statistics.sum(axis=0, keepdims=True))[0]),
        "tuned": float(found.value(tuned_rows.statistics.sum(axis=0, keepdims=True))[0]),
        "difference": change,
        "low": low,
        "high": high,
        "decided": decided,
        "rows": rows,
        "text": _verdict_text(found, change, low, high, decided=decided, rows=rows),
    }


def _verdict_text(metric: Metric, change: float, low: float, high: float, *, decided: bool, rows: int) -> str:
    factor, unit = {"share": (100, " points"), "points": (1, f" {metric.label}")}.get(metric.unit, (1, ""))
    if not math.isfinite(change):
        return "undecided: a value is not finite"
    subject = "" if unit else f"{metric.label.lower()} "
    sizes = [factor * size for size in (change, low, high)]
    digits = _digits(sizes, at_least=1 if unit else 3)
    if not decided:
        if low == high == 0:
            return "undecided: no difference on any row drawn"
        few = f" on {rows} rows, too few to tell" if rows < MINIMUM_ROWS else ""
        return f"undecided: {subject}{sizes[0]:+.{digits}f}{unit} ({sizes[1]:.{digits}f} to {sizes[2]:.{digits}f}){few}"
    word = "better" if (change > 0) == metric.higher_is_better else "worse"
    near, far = sorted(abs(size) for size in sizes[1:])
    span = f"{abs(sizes[0]):.{digits}f}{unit} ({near:.{digits}f} to {far:.{digits}f})"
    if unit:
        return f"{word} by {span}"
    return f"{word}: {subject}{'higher' if change > 0 else 'lower'} by {span}"


def _digits(sizes: Sequence[float], at_least: int) -> int:
    """Digits after the point so that the smallest size that is not 0 does not read as 0."""
    smallest = min((abs(size) for size in sizes if size), default=1.0)
    return min(4, max(at_least, -math.floor(math.log10(smallest))))
