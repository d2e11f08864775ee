"""Which shape the rows of a source have, told from its first rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.columns import LAYOUTS, Layout, check_column_map, nearest_hint, resolve_columns
from tunesmith.formats.examples import SHAPES
from tunesmith.formats.rows import BadRow, Row, RowProblem, clip
from tunesmith.formats.shapes import parse_example

SAMPLE_ROWS = 100

_TASKS = {
    "chat": "chat",
    "prompt_completion": "chat",
    "text": "text",
    "text_label": "classification",
    "entities": "ner",
    "translation": "translation",
    "question_answer": "qa",
    "preference": "preference",
    "rated": "preference",
    "function_calls": "function_calling",
    "text_to_sql": "text_to_sql",
}


@dataclass(frozen=True)
class Reading:
    """How rows are read: the shape, the column of each field, and what a reader should be warned of."""

    shape: str
    columns: Mapping[str, str]
    unused_columns: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    layout: Layout
    columns: dict[str, str]
    fitting: int


def task_of_shape(shape: str) -> str:
    """The task that ``task: auto`` means for rows of a shape.

    Raises:
        UsageError: No such shape (``data.unknown_shape_name``).
    """
    check_shape_name(shape)
    return _TASKS[shape]


def check_shape_name(shape: str) -> None:
    """Raise a UsageError (``data.unknown_shape_name``) unless the shape exists."""
    if shape not in SHAPES:
        raise UsageError(
            "no such shape",
            code="data.unknown_shape_name",
            value=shape,
            hint=nearest_hint(shape, SHAPES, "the shapes are"),
        )


def detect_reading(
    rows: Iterable[Row | BadRow],
    place: str,
    *,
    columns: Mapping[str, str] | None = None,
    shape: str | None = None,
    json_cells: bool = False,
) -> Reading:
    """Find shape and columns from the first :data:`SAMPLE_ROWS` readable rows.

    The layouts of :data:`tunesmith.formats.columns.LAYOUTS` are tried in their order of precedence; the first that
    most sampled rows fit is taken, else the one that most rows fit. ``shape`` and ``columns`` narrow the choice.

    Args:
        rows: The rows of the source; only as many as needed are taken.
        place: The source, for messages.
        columns: The user's map from our field to a column.
        shape: The user's shape.
        json_cells: Whether lists and objects are JSON inside text cells (CSV).

    Raises:
        DataError: ``data.unknown_field``, ``data.unknown_column``, ``data.missing_columns`` (the shape asked for lacks
            columns), ``data.unknown_shape`` (no layout fits the columns) or ``data.empty_column`` (what would be plain
            text has a column for labels or answers in which there is nothing).
        UsageError: ``data.unknown_shape_name``.
    """
    if shape is not None:
        check_shape_name(shape)
    sample = [row.fields for row in islice((row for row in rows if isinstance(row, Row)), SAMPLE_ROWS)]
    names = list(dict.fromkeys(name for fields in sample for name in fields))
    explicit = check_column_map(columns or {}, names, place)
    candidates: list[_Candidate] = []
    for layout in LAYOUTS:
        if shape is not None and layout.shape != shape:
            continue
        resolved = resolve_columns(layout, names, explicit)
        if resolved is not None:
            fitting = sum(_fits(layout.shape, fields, resolved, json_cells) for fields in sample)
            candidates.append(_Candidate(layout, resolved, fitting))
    if not candidates:
        raise _no_layout(place, names, sample, shape=shape, explicit=explicit, table=json_cells)
    chosen = next((found for found in candidates if 2 * found.fitting > len(sample)), None)
    chosen = chosen or max(candidates, key=lambda found: found.fitting)
    unused = tuple(name for name in names if name not in chosen.columns.values())
    if chosen.layout.shape == "text" and not (shape or explicit):
        _refuse_empty_columns(place, chosen, candidates, sample)
    warnings = _warnings(chosen, candidates, len(sample), bool(shape or explicit))
    if chosen.layout.shape == "text" and unused and not (shape or explicit):
        # Plain text is what is left when nothing else fits, so a column with the answers may go unnoticed.
        warnings += (f"read as plain text from `{chosen.columns['text']}`; not used: {', '.join(unused)}",)
    return Reading(chosen.layout.shape, chosen.columns, unused, warnings)


def _fits(shape: str, fields: Mapping[str, Any], columns: Mapping[str, str], json_cells: bool) -> bool:
    try:
        parse_example(shape, fields, columns, json_cells)
    except RowProblem:
        return False
    return True


def _refuse_empty_columns(
    place: str, chosen: _Candidate, candidates: Sequence[_Candidate], sample: Sequence[Mapping[str, Any]]
) -> None:
    """Raise a DataError where rows would count as plain text only because another layout's column is empty."""
    used = set(chosen.columns.values())
    for other in candidates[: candidates.index(chosen)]:
        wanted = [other.columns[field] for field in other.layout.needed if other.columns[field] not in used]
        empty = [column for column in wanted if all(_is_blank(fields.get(column)) for fields in sample)]
        if empty:
            raise DataError(
                f"column `{empty[0]}` is empty in all of the first {len(sample)} rows",
                code="data.empty_column",
                place=place,
                hint=f"fill it to train {other.layout.shape}; to train the texts alone, set the shape to text",
            )


def _is_blank(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _warnings(chosen: _Candidate, candidates: Sequence[_Candidate], rows: int, forced: bool) -> tuple[str, ...]:
    """What the user should know about the choice: better-ranked layouts that did not fit, and other readings."""
    said: list[str] = []
    if forced:
        return ()
    shape = chosen.layout.shape
    mine = set(chosen.columns.values())
    for other in candidates:
        theirs = set(other.columns.values())
        if other is chosen or other.layout.shape == shape or theirs <= mine:
            continue
        written = ", ".join(f"{field}={column}" for field, column in other.columns.items())
        if candidates.index(other) < candidates.index(chosen):
            said.append(
                f"read as {shape}, although the columns look like {other.layout.shape} ({written}): "
                f"only {other.fitting} of the first {rows} rows fit that"
            )
        elif 2 * other.fitting > rows:
            said.append(
                f"read as {shape}; the rows also fit {other.layout.shape} ({written}): set the shape to force it"
            )
    return tuple(said)


def _no_layout(
    place: str,
    names: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    *,
    shape: str | None,
    explicit: Mapping[str, str],
    table: bool,
) -> DataError:
    listed = ", ".join(clip(name) for name in names[:30]) or "none"
    if shape is not None:
        forms = [" and ".join(f"`{field}`" for field in layout.needed) for layout in LAYOUTS if layout.shape == shape]
        return DataError(
            f"the columns for shape {shape} are not there",
            code="data.missing_columns",
            place=place,
            value=f"columns {listed}",
            hint=f"it needs {', or '.join(forms)}; name them with a column map, {_example_map(names, sample, shape)}",
        )
    lead = "if the first line holds no column names, add one; else " if table else ""
    if explicit:
        lead = f"no shape has all the fields of the column map ({', '.join(explicit)}) and finds its other columns; "
    return DataError(
        "cannot tell what the rows mean from their columns",
        code="data.unknown_shape",
        place=place,
        value=f"columns {listed}",
        hint=f"{lead}name the columns with a column map, {_example_map(names, sample, None)}",
    )


def _example_map(names: Sequence[str], sample: Sequence[Mapping[str, Any]], shape: str | None) -> str:
    """An example of a column map with a column of this file: the one with the longest texts."""

    def length(name: str) -> int:
        return sum(len(value) for fields in sample if isinstance(value := fields.get(name), str))

    longest = max(names, key=length, default="name")
    field = "text" if shape is None else next(iter(next(x for x in LAYOUTS if x.shape == shape).needed))
    return f"for example {{{field}: {longest}}}"
