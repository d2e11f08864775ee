"""Exact match and token F1 by the rules of SQuAD: case, punctuation and English articles do not count."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunesmith.evaluation.metrics.types import Rows, accepted_answers, check_rows, mean_rows

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the words of two texts, as multisets; two texts without words are equal."""
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def exact_match_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer equals one of the accepted answers after normalising."""
    check_rows(predictions, references)
    return mean_rows(
        [
            float(normalise_answer(prediction) in map(normalise_answer, accepted_answers(reference)))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
    )


def token_f1_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """The best token F1 of each answer over its accepted answers."""
    check_rows(predictions, references)
    return mean_rows(
        [
            max(token_f1(prediction, answer) for answer in accepted_answers(reference))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
    )
