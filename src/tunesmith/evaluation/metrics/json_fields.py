"""Answers that are JSON objects: valid at all, equal as a whole, and right field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Rows, accepted_answers, check_rows, divide, is_object, mean_rows


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def parse_json(text: str) -> Any:
    """The value of a JSON text, or None where it is not JSON (NaN and Infinity are not)."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def same_value(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; 1 equals 1.0 but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    return bool(left == right)


def _objects(
    predictions: Sequence[str], references: Sequence[Any]
) -> list[tuple[Mapping[str, Any] | None, Mapping[str, Any]]]:
    check_rows(predictions, references)
    pairs = []
    for prediction, reference in zip(predictions, references, strict=True):
        expected = reference if isinstance(reference, Mapping) else parse_json(accepted_answers(reference)[0])
        if not isinstance(expected, Mapping):
            raise UsageError("a reference is not a JSON object", code="metrics.reference", value=repr(reference)[:80])
        answer = parse_json(prediction)
        pairs.append((answer if is_object(answer) else None, expected))
    return pairs


def _right_fields(answer: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> list[bool]:
    return [answer is not None and key in answer and same_value(answer[key], expected[key]) for key in expected]


def json_valid_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer is a JSON object."""
    check_rows(predictions, references)
    return mean_rows([float(is_object(parse_json(prediction))) for prediction in predictions])


def json_exact_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer is the expected object: the same fields with the same values, in any order."""
    pairs = _objects(predictions, references)
    return mean_rows([float(answer is not None and same_value(answer, expected)) for answer, expected in pairs])


def json_field_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Per row: expected fields that are right, expected fields. An answer that is no object has none right."""
    counts = [_right_fields(answer, expected) for answer, expected in _objects(predictions, references)]
    right = np.array([sum(row) for row in counts], dtype=np.float64)
    fields = np.array([len(row) for row in counts], dtype=np.float64)
    return Rows(np.stack([right, fields], axis=1), divide(right, fields))


def json_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """The share of JSON objects and the accuracy of every expected field with the rows that have it."""
    pairs = _objects(predictions, references)
    fields: dict[str, list[bool]] = {}
    for answer, expected in pairs:
        for key, right in zip(expected, _right_fields(answer, expected), strict=True):
            fields.setdefault(key, []).append(right)
    return {
        "format_valid": sum(answer is not None for answer, _ in pairs) / len(pairs),
        "per_field": [
            {"field": key, "accuracy": sum(right) / len(right), "rows": len(right)}
            for key, right in sorted(fields.items())
        ],
    }
