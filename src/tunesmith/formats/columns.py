"""Which column of a file plays which part: our field names, the usual names of each, and explicit column maps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tunesmith.errors import DataError

# Usual names of a field, best first, written in lower case with underscores.
_TEXT = ("text", "sentence", "utterance", "query", "content", "document", "review", "tweet", "comment")
_PROMPT = ("prompt", "instruction", "instructions", "question", "query", "problem", "input")
_SYSTEM = ("system", "system_prompt")
_INPUT = ("input", "context")


@dataclass(frozen=True)
class Layout:
    """One way to write a shape as columns: needed and optional fields with the usual names of each."""

    shape: str
    needed: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]


# In order of precedence: where the columns fit several layouts, the first one is read (and the others are named in
# a warning). A column map or a shape forces another reading.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "preference",
        {
            "chosen": ("chosen", "preferred_output", "preferred_completion", "chosen_response"),
            "rejected": ("rejected", "non_preferred_output", "non_preferred_completion", "rejected_response"),
        },
        {
            "prompt": ("prompt", "instruction", "question", "query", "messages", "input"),
            "input": _INPUT,
            "system": _SYSTEM,
            "tools": ("tools",),
        },
    ),
    Layout(
        "rated",
        {"prompt": ("prompt",), "completion": ("completion",), "label": ("label",)},
        {"input": _INPUT, "system": _SYSTEM, "tools": ("tools",)},
    ),
    Layout(
        "chat",
        {"messages": ("messages", "conversations", "conversation", "dialogue", "dialog")},
        {"tools": ("tools",), "functions": ("functions",), "system": _SYSTEM},
    ),
    Layout(
        "function_calls",
        {
            "question": ("question", "messages", "query", "prompt", "instruction"),
            "functions": ("function", "functions", "tools"),
            "calls": ("ground_truth", "calls", "function_calls", "expected_calls", "answers"),
        },
        {},
    ),
    Layout(
        "text_to_sql",
        {"question": ("question", "sql_prompt", "prompt", "instruction"), "sql": ("sql", "sql_query")},
        {"schema": ("schema", "sql_context", "context", "create_table"), "tables": ("tables", "table")},
    ),
    Layout(
        "entities",
        {"tokens": ("tokens", "words"), "tags": ("ner_tags", "tags", "labels", "iob_tags", "bio_tags")},
        {},
    ),
    Layout("entities", {"text": _TEXT, "entities": ("entities", "spans", "slots")}, {}),
    Layout(
        "question_answer",
        {"question": ("question", "query"), "answers": ("answers", "answer")},
        {"context": ("context", "passage", "paragraph")},
    ),
    Layout("translation", {"translation": ("translation",)}, {}),
    Layout(
        "translation",
        {
            "source": ("source", "src", "source_text", "source_sentence"),
            "target": ("target", "tgt", "target_text", "target_sentence"),
        },
        {
            "source_language": ("source_lang", "source_language", "src_lang"),
            "target_language": ("target_lang", "target_language", "tgt_lang"),
        },
    ),
    Layout(
        "prompt_completion",
        {"prompt": _PROMPT, "completion": ("completion", "response", "output", "answer", "solution")},
        {"input": _INPUT, "system": _SYSTEM},
    ),
    Layout(
        "text_label",
        {
            "text": (*_TEXT, "question"),
            "label": ("label_text", "label_name", "label", "category", "intent", "class", "sentiment", "labels"),
        },
        {},
    ),
    Layout("text", {"text": (*_TEXT, "body", "article")}, {}),
)

# The fields whose values are lists or objects; in CSV they are written as JSON inside a cell.
STRUCTURED = frozenset(
    (
        *("messages", "tools", "functions", "calls", "tokens", "tags", "entities", "answers", "translation"),
        *("tables", "sql", "chosen", "rejected", "prompt", "completion"),
    )
)


def normal_name(name: str) -> str:
    """A column name for comparison: lower case, blanks and hyphens as underscores."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def all_fields() -> list[str]:
    """Every field name that a column map may use."""
    return sorted({name for layout in LAYOUTS for name in (*layout.needed, *layout.optional)})


def resolve_columns(layout: Layout, names: Iterable[str], explicit: Mapping[str, str]) -> dict[str, str] | None:
    """Give each field of a layout its column, or None where a needed field has none.

    Args:
        layout: The layout to fill.
        names: The columns that exist.
        explicit: The user's map from our field to a column; it may not name a field that the layout lacks.
    """
    fields = {**layout.needed, **layout.optional}
    if not set(explicit) <= set(fields):
        return None
    by_normal: dict[str, str] = {}
    for name in names:
        by_normal.setdefault(normal_name(name), name)
    resolved = dict(explicit)
    taken = set(explicit.values())
    for field_name, usual in fields.items():
        if field_name in resolved:
            continue
        column = next((by_normal[name] for name in usual if name in by_normal and by_normal[name] not in taken), None)
        if column is not None:
            resolved[field_name] = column
            taken.add(column)
        elif field_name in layout.needed:
            return None
    return resolved


def check_column_map(explicit: Mapping[str, str], names: list[str], place: str) -> dict[str, str]:
    """Check a column map against the columns that exist; another case of letters is forgiven.

    Raises:
        DataError: ``data.unknown_field`` for a field that is not ours, ``data.unknown_column`` for a column that
            does not exist; each names the nearest and all that exist.
    """
    by_lower = {name.lower(): name for name in reversed(names)}
    checked: dict[str, str] = {}
    for field_name, column in explicit.items():
        if field_name not in all_fields():
            raise DataError(
                "the column map names a field that does not exist",
                code="data.unknown_field",
                place=place,
                value=field_name,
                hint=nearest_hint(field_name, all_fields(), "the fields are"),
            )
        found = column if column in names else by_lower.get(column.lower())
        if found is None:
            raise DataError(
                f"the column map gives `{field_name}` a column that does not exist",
                code="data.unknown_column",
                place=place,
                value=column,
                hint=nearest_hint(column, names, "the columns are"),
            )
        checked[field_name] = found
    return checked


def nearest_hint(wrong: str, known: Iterable[str], lead: str) -> str:
    """A hint that names the nearest known word, then all of them."""
    words = list(known)
    near = difflib.get_close_matches(wrong.lower(), [word.lower() for word in words], n=1, cutoff=0.6)
    listed = f"{lead} {', '.join(words[:30])}" + (", ..." if len(words) > 30 else "")
    if not near:
        return listed
    word = next(word for word in words if word.lower() == near[0])
    return f"did you mean `{word}`? {listed}"
