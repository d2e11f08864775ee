"""What a metric is: statistics a row, whose sums over any set of rows give the metric of that set.

Every metric here is a function of summed statistics, also those that are not means (macro F1, BLEU, perplexity).
So one bootstrap serves all: the sums of a resample are one matrix product, and no answer is ever parsed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import UsageError

Array = NDArray[np.float64]
Needs = Literal[
    "labels",
    "choices",
    "answers",
    "text",
    "number",
    "json",
    "spans",
    "tags",
    "calls",
    "sql",
    "tune",
    "pairs",
    "token_losses",
]
Unit = Literal["share", "points", "nats", "ratio"]


@dataclass(frozen=True)
class Rows:
    """A system's rows under one metric.

    ``statistics`` has shape (rows, k): what sums up. ``scores`` has shape (rows,): how good each row is by itself,
    0 to 1 (for token losses: the mean loss of the row); it is for showing a row, never for the aggregate.
    """

    statistics: Array
    scores: Array


Measure = Callable[[Sequence[str], Sequence[Any], Sequence[str]], Rows]
Details = Callable[[Sequence[str], Sequence[Any], Sequence[str]], dict[str, Any]]


@dataclass(frozen=True)
class Metric:
    """One metric of the table.

    ``value`` maps sums of shape (resamples, k) to values of shape (resamples,). ``measure`` maps predictions,
    references and the label set to :class:`Rows`; it is None where rows come from token losses. ``unit`` is "share"
    (0 to 1), "points" (0 to 100), "nats" or "ratio". ``proportion`` marks the share of rows that are right.
    """

    name: str
    label: str
    unit: Unit
    higher_is_better: bool
    needs: Needs
    value: Callable[[Array], Array]
    measure: Measure | None = None
    details: Details | None = None
    proportion: bool = False


def check_rows(predictions: Sequence[str], references: Sequence[Any]) -> None:
    """Refuse lists of different lengths and empty ones.

    Raises:
        UsageError: ``metrics.lengths`` or ``metrics.no_rows``.
    """
    if len(predictions) != len(references):
        raise UsageError(
            "every prediction needs one reference",
            code="metrics.lengths",
            value=f"{len(predictions)} predictions, {len(references)} references",
        )
    if not predictions:
        raise UsageError("no rows to score", code="metrics.no_rows")


def accepted_answers(reference: Any) -> tuple[str, ...]:
    """The accepted answers of one row: a string stands for itself, a list for several."""
    if isinstance(reference, str):
        return (reference,)
    if isinstance(reference, Sequence) and reference and all(isinstance(answer, str) for answer in reference):
        return tuple(reference)
    raise UsageError(
        "a reference must be a text or a list of accepted texts",
        code="metrics.reference",
        value=repr(reference)[:80],
    )


def is_object(value: Any) -> bool:
    """Whether a parsed JSON value is an object."""
    return isinstance(value, Mapping)


def divide(numerator: Array, denominator: Array) -> Array:
    """Divide element by element; 0 where the denominator is 0."""
    result: Array = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
    return result


def mean_rows(scores: Sequence[float]) -> Rows:
    """Rows of a metric that is the mean of its row scores; to be read with :func:`ratio_value`."""
    values = np.asarray(scores, dtype=np.float64)
    return Rows(np.stack([values, np.ones_like(values)], axis=1), values)


def ratio_value(sums: Array) -> Array:
    """The first sum divided by the second: a mean over rows, fields or tokens."""
    return divide(sums[:, 0], sums[:, 1])
