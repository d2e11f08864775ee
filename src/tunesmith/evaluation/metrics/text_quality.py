"""What can be said of a free text without judging it: how varied, how long, and whether it is of the right form.

Distinct-n is the share of different n-grams among all (Li et al. 2016), counted within each answer here, so that it
does not depend on how many answers there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.evaluation.metrics.types import Rows, accepted_answers, check_rows, divide

_WORD = re.compile(r"\w+|[^\w\s]")
_ROLE_MARK = re.compile(r"<\|[\w ]+\|>|</s>|^(?:user|assistant|system)\s*:", re.MULTILINE | re.IGNORECASE)
# So many words, said so often in a row at the end, are a loop.
_LOOP_TIMES = 4
_LONGEST_LOOP_WORDS = 20


def words(text: str) -> list[str]:
    """Words and marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def distinct_rows(predictions: Sequence[str], references: Sequence[Any], ngram_words: int) -> Rows:
    """Per row: different stretches of ``ngram_words`` neighbouring words, all such stretches."""
    check_rows(predictions, references)
    statistics = []
    for answer in predictions:
        found = words(answer)
        stretches = list(zip(*(found[at:] for at in range(ngram_words)), strict=False))
        statistics.append([len(set(stretches)), len(stretches)])
    values = np.array(statistics, dtype=np.float64)
    return Rows(values, divide(values[:, 0], values[:, 1]))


def ends_in_a_loop(text: str) -> bool:
    """Whether the text ends in the same words again and again."""
    found = words(text)
    for size in range(1, _LONGEST_LOOP_WORDS + 1):
        end = found[-size * _LOOP_TIMES :]
        if len(end) == size * _LOOP_TIMES and end == end[-size:] * _LOOP_TIMES:
            return True
    return False


def text_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """Lengths against the references', and how many answers are empty, loop, or hold marks of turns."""
    check_rows(predictions, references)
    expected = [_text(reference) for reference in references]
    ours, theirs = (sum(len(text.split()) for text in texts) for texts in (predictions, expected))
    faults = {
        "empty": [not answer.strip() for answer in predictions],
        "ends in a loop": [ends_in_a_loop(answer) for answer in predictions],
        "marks of a turn": [bool(_ROLE_MARK.search(answer)) for answer in predictions],
    }
    wrong = sum(map(any, zip(*faults.values(), strict=True)))
    return {
        "invalid": wrong,
        "format_valid": 1 - wrong / len(predictions),
        "faults": [{"fault": name, "rows": sum(found)} for name, found in faults.items() if any(found)],
        "lengths": {
            "answer_words": ours / len(predictions),
            "reference_words": theirs / len(expected),
            "ratio": ours / theirs if theirs else None,
        },
    }


def _text(reference: Any) -> str:
    if isinstance(reference, Mapping):
        return str(reference.get("text", ""))
    return accepted_answers(reference)[0]
