"""ROUGE-L: how much of a free answer runs in the order of the reference. A weak signal, for chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tunesmith.evaluation.metrics.types import Rows, accepted_answers, check_rows, mean_rows

_WORD = re.compile(r"\w+")


def common_subsequence_length(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence, with one big integer as the row of the table."""
    positions: dict[str, int] = {}
    for index, word in enumerate(left):
        positions[word] = positions.get(word, 0) | (1 << index)
    everything = (1 << len(left)) - 1
    row = everything
    for word in right:
        kept = row & positions.get(word, 0)
        row = ((row + kept) | (row - kept)) & everything
    return len(left) - row.bit_count()


def rouge_l(prediction: str, answer: str) -> float:
    """F1 of the longest common subsequence of words, in lower case; two texts without words are equal."""
    ours, theirs = _WORD.findall(prediction.lower()), _WORD.findall(answer.lower())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * common_subsequence_length(ours, theirs) / (len(ours) + len(theirs))


def rouge_l_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """The best ROUGE-L F1 of each answer over its accepted answers."""
    check_rows(predictions, references)
    return mean_rows(
        [
            max(rouge_l(prediction, answer) for answer in accepted_answers(reference))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
    )
