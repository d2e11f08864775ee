"""Multiple choice from the log likelihood of each answer: MC1, MC2, accuracy, and their worst cases.

MC1 and MC2 are those of Lin, Hilton and Evans, "TruthfulQA: Measuring How Models Mimic Human Falsehoods" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.evaluation.metrics.types import Array, Metric, ratio_value

WORST = "_worst_case"

CHOICE_METRICS = tuple(
    metric
    for name, label, proportion in (
        ("mc1", "MC1", True),
        ("mc2", "MC2", False),
        ("choice_accuracy", "Choice accuracy", True),
        ("choice_accuracy_normalised", "Choice accuracy, by length", True),
    )
    for metric in (
        Metric(name, label, "share", True, "choices", ratio_value, proportion=proportion),
        Metric(f"{name}{WORST}", f"{label} robustness", "share", True, "choices", ratio_value, proportion=proportion),
    )
)


def most_likely(scores: Sequence[float], true: Sequence[bool]) -> float:
    """1 where the most likely answer is true, else 0; of equally likely answers the first counts."""
    return float(true[int(np.argmax(scores))])


def true_mass(scores: Sequence[float], true: Sequence[bool]) -> float:
    """The share of the probability of all answers that the true ones have together."""
    values: Array = np.asarray(scores, dtype=np.float64)
    # Only ratios count, and so unlikely answers do not vanish.
    probabilities = np.exp(values - values.max())
    return float(probabilities[np.asarray(true)].sum() / probabilities.sum())


def most_likely_by_length(scores: Sequence[float], texts: Sequence[str], true: Sequence[bool]) -> float:
    """1 where the answer with the highest log likelihood a character is true, else 0."""
    return most_likely([score / len(text) for score, text in zip(scores, texts, strict=True)], true)
