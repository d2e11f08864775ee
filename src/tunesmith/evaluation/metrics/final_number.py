"""The final number of a worked answer: the one after ``####`` as GSM8K writes it, or the last number of the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tunesmith.evaluation.metrics.types import Rows, accepted_answers, check_rows, mean_rows

# A minus counts as a sign only where no number stands before it: "12-5" ends in 5, not in -5.
_NUMBER = r"(?<![\d.])(?:(?<!\d)-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<!\d)-)?\$?(?<![\d.])\.\d+"
_ANY_NUMBER = re.compile(_NUMBER)
_MARKED_NUMBER = re.compile(rf"####\s*({_NUMBER})")


def final_number(text: str) -> Decimal | None:
    """The number after the first ``####``, else the last number; thousands' commas and a dollar sign are dropped."""
    marked = _MARKED_NUMBER.search(text)
    if marked:
        found = marked.group(1)
    else:
        numbers = _ANY_NUMBER.findall(text)
        if not numbers:
            return None
        found = numbers[-1]
    return Decimal(found.replace(",", "").replace("$", ""))


def final_number_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer ends in the number of an accepted answer. A row without a number to find is wrong."""
    check_rows(predictions, references)
    scores = []
    for prediction, reference in zip(predictions, references, strict=True):
        number = final_number(prediction)
        expected = [final_number(answer) for answer in accepted_answers(reference)]
        scores.append(float(number is not None and number in expected))
    return mean_rows(scores)


def final_number_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """How many answers, and how many references, have no number at all."""
    check_rows(predictions, references)
    without = [final_number(prediction) is None for prediction in predictions]
    return {
        "invalid": sum(without),
        "format_valid": 1 - sum(without) / len(without),
        "references_without_number": sum(
            all(final_number(answer) is None for answer in accepted_answers(reference)) for reference in references
        ),
    }
