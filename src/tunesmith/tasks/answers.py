"""The form of the answers of a data set, told from a sample, and the metrics that fit it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Form = Literal["json", "number", "short", "long"]

METRICS_OF_FORM: Mapping[Form, tuple[str, ...]] = {
    "json": ("json_exact", "json_fields", "json_valid"),
    "number": ("final_number",),
    "short": ("exact_match", "token_f1"),
    "long": ("rouge_l", "chrf"),
}
WORDS_OF_FORM: Mapping[Form, str] = {
    "json": "answers are JSON objects",
    "number": "answers end in a number after ####",
    "short": "answers are short",
    "long": "answers are texts",
}

SHORT_WORDS = 8
# Most answers must have a form for it to be the form of the set; JSON metrics refuse references that are no objects.
MOST = 0.9
_MARKED_NUMBER = re.compile(r"####\s*-?\$?[\d.,]*\d")
_BYTES_PER_TOKEN = 2.5


def answer_form(answers: Sequence[str]) -> Form:
    """The form that the answers share; ``long`` where there are none or they share no other."""
    if not answers:
        return "long"
    if all(_is_json_object(answer) for answer in answers):
        return "json"
    if _share(answers, lambda answer: _MARKED_NUMBER.search(answer) is not None) >= MOST:
        return "number"
    return "short" if _share(answers, _is_short) >= MOST else "long"


def longest(answers: Sequence[str]) -> str:
    """The answer with the most UTF-8 bytes; an empty text where there are none."""
    return max(answers, key=lambda answer: len(answer.encode("utf-8", "surrogatepass")), default="")


def rough_tokens(text: str) -> int:
    """Tokens of a text without a tokenizer; more than most tokenizers need."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN)


def _share(answers: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(holds(answer) for answer in answers) / len(answers)


def _is_short(answer: str) -> bool:
    return "\n" not in answer.strip() and len(answer.split()) <= SHORT_WORDS and len(answer) <= 80


def _is_json_object(answer: str) -> bool:
    if not answer.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False
