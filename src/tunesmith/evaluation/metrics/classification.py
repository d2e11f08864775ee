"""Accuracy and macro F1 of generated label strings.

Answers and labels are compared without surrounding white space and without regard to case, unless two labels of the
set differ in case alone. An answer outside the label set is wrong for its true class and is counted as invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.metrics.types import Array, Rows, accepted_answers, check_rows, divide, mean_rows

INVALID = -1
CONFUSION_CLASSES = 20


def _key_function(labels: Sequence[str]) -> Callable[[str], str]:
    stripped = {label.strip() for label in labels}
    if len({label.casefold() for label in stripped}) < len(stripped):
        return str.strip
    return lambda text: text.strip().casefold()


def _codes(
    predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Predictions and references as class numbers, and the class names; a prediction may be INVALID."""
    check_rows(predictions, references)
    truths = [accepted_answers(reference)[0].strip() for reference in references]
    key = _key_function(labels or truths)
    names: dict[str, str] = {}
    for label in [*sorted(labels), *sorted(truths)]:
        names.setdefault(key(label), label.strip())
    numbers = {name: number for number, name in enumerate(sorted(names))}
    predicted = np.array([numbers.get(key(prediction), INVALID) for prediction in predictions], dtype=np.int64)
    true = np.array([numbers[key(truth)] for truth in truths], dtype=np.int64)
    return predicted, true, [names[name] for name in sorted(names)]


def accuracy_rows(predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]) -> Rows:
    """Whether each answer is the row's label."""
    predicted, true, _ = _codes(predictions, references, labels)
    return mean_rows((predicted == true).astype(float))


def macro_f1_rows(predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]) -> Rows:
    """Per row and class that occurs in the references: right, predicted, true; shape (rows, 3 * classes)."""
    predicted, true, _ = _codes(predictions, references, labels)
    classes = np.unique(true)
    is_predicted = predicted[:, None] == classes
    is_true = true[:, None] == classes
    statistics = np.concatenate([is_predicted & is_true, is_predicted, is_true], axis=1).astype(np.float64)
    return Rows(statistics, (predicted == true).astype(np.float64))


def macro_f1_value(sums: Array) -> Array:
    """The mean F1 of the classes that have rows.

    A class without rows in a resample is left out of that resample's mean: it has no recall to speak of, and counting
    it as 0 would pull the whole interval below the value.
    """
    right, predicted, true = np.split(sums, 3, axis=1)
    f1 = divide(2 * right, predicted + true)
    return divide(f1.sum(axis=1), (true > 0).sum(axis=1).astype(np.float64))


def classification_details(
    predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]
) -> dict[str, Any]:
    """The table of classes, the count of invalid answers, and the confusion counts of up to 20 classes.

    The last column of ``confusion["counts"]`` counts invalid answers; rows are true classes. Of more classes, those are
    there that are taken for each other most; ``others`` then counts for each of them the answers that name a class
    which is not there, and ``classes`` how many there are in all.
    """
    from sklearn.metrics import (  # type: ignore[import-untyped]
        confusion_matrix,
        precision_recall_fscore_support,
    )

    predicted, true, names = _codes(predictions, references, labels)
    numbers = list(range(len(names)))
    precision, recall, f1, rows = precision_recall_fscore_support(true, predicted, labels=numbers, zero_division=0)
    details: dict[str, Any] = {
        "invalid": int((predicted == INVALID).sum()),
        "format_valid": float((predicted != INVALID).mean()),
        "per_class": [
            {
                "label": names[number],
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "rows": int(rows[number]),
            }
            for number in numbers
        ],
    }
    counts = confusion_matrix(true, predicted, labels=[*numbers, INVALID])[:-1]
    shown = numbers if len(names) <= CONFUSION_CLASSES else _most_confused(counts)
    if shown:
        details["confusion"] = {
            "labels": [names[number] for number in shown],
            "counts": counts[np.ix_(shown, [*shown, len(names)])].tolist(),
        }
        if len(shown) < len(names):
            elsewhere = [number for number in numbers if number not in shown]
            details["confusion"] |= {"others": counts[np.ix_(shown, elsewhere)].sum(axis=1).tolist()}
            details["confusion"] |= {"classes": len(names)}
    return details


def _most_confused(counts: NDArray[np.int64]) -> list[int]:
    """Classes of the pairs that are taken for each other most, as many as are drawn, in their own order."""
    between = counts[:, :-1] + counts[:, :-1].T
    first, second = np.triu_indices(len(between), k=1)
    chosen: list[int] = []
    for at in np.argsort(-between[first, second], kind="stable"):
        pair = [number for number in (int(first[at]), int(second[at])) if number not in chosen]
        if not between[first[at], second[at]] or len(chosen) + len(pair) > CONFUSION_CLASSES:
            break
        chosen += pair
    return sorted(chosen)
