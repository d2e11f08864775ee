"""From a raw row to an example: one parser for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.formats.examples import Example
from tunesmith.formats.shapes.calls import parse_function_calls
from tunesmith.formats.shapes.chat import parse_chat
from tunesmith.formats.shapes.entities import parse_entities
from tunesmith.formats.shapes.preference import parse_preference, parse_rated
from tunesmith.formats.shapes.sql import parse_sql
from tunesmith.formats.shapes.texts import (
    parse_prompt_completion,
    parse_question_answer,
    parse_text,
    parse_text_label,
    parse_translation,
)
from tunesmith.formats.shapes.values import Fields

_PARSERS: Mapping[str, Callable[[Fields], Example]] = {
    "chat": parse_chat,
    "prompt_completion": parse_prompt_completion,
    "text": parse_text,
    "text_label": parse_text_label,
    "entities": parse_entities,
    "translation": parse_translation,
    "question_answer": parse_question_answer,
    "preference": parse_preference,
    "rated": parse_rated,
    "function_calls": parse_function_calls,
    "text_to_sql": parse_sql,
}


def parse_example(shape: str, fields: Mapping[str, Any], columns: Mapping[str, str], json_cells: bool) -> Example:
    """Read one raw row as an example of a shape.

    Args:
        shape: A key of :data:`tunesmith.formats.examples.SHAPES`.
        fields: The raw row.
        columns: Which column each of our fields is.
        json_cells: Whether lists and objects are written as JSON inside text cells (CSV).

    Raises:
        RowProblem: The row does not fit the shape.
    """
    return _PARSERS[shape](Fields(fields, columns, json_cells))
