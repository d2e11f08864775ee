"""One raw row of a file, good or bad, before its meaning is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.formats.examples import Place

# A longer row is a broken file far more often than a training example; it also bounds the memory of every reader.
MAX_ROW_BYTES = 64 * 1024 * 1024

# After a bad row of these kinds the rest of the file cannot be read, so such a file is never merely "skipped".
UNREADABLE_REST = frozenset({"broken_file", "unclosed_quote"})


@dataclass(frozen=True)
class Row:
    """A row as its file has it: column names and values."""

    place: Place
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: a stable kind for grouping, and what is wrong with this one."""

    place: Place
    kind: str
    message: str


class RowProblem(Exception):  # noqa: N818  (it never leaves this room: it becomes a BadRow)
    """Raised by the parser of a shape for a row that does not fit."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def clip(value: object, length: int = 60) -> str:
    """A value for a message, on one line and not longer than ``length`` characters."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
