"""Bad rows, counted and grouped by kind, and the error that refuses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.errors import DataError, Problem
from tunesmith.formats.examples import Place
from tunesmith.formats.rows import UNREADABLE_REST, BadRow

FIRST_ROWS = 5

_HINTS: Mapping[str, str] = {
    "invalid_json": "each line must be one whole JSON object",
    "broken_file": "the rest of the file cannot be read; was it copied whole?",
    "unclosed_quote": 'write a double quote inside a field as ""',
    "invalid_csv": 'enclose fields in double quotes and write a double quote inside them as ""',
    "wrong_column_count": "enclose fields that hold the delimiter in double quotes",
    "invalid_encoding": "save the file as UTF-8",
    "nul_byte": "the file is damaged or binary",
    "missing_label": "give every row a label",
    "empty_text": "remove the row or give it a text",
    "unrecognized_role": "use system, developer, user, assistant or tool",
    "example_missing_assistant_message": "end the conversation with the answer to learn",
    "message_missing_key": "every message needs role and content",
    "span_outside_text": "count characters from 0; end is the first character behind the entity",
    "tags_do_not_match_tokens": "write one tag for each token",
    "tags_not_iob2": "begin every entity with B-",
    "missing_answer": "write the answer, or an empty list where the context does not answer the question",
}


@dataclass(frozen=True)
class BadKind:
    """Bad rows of one kind: how many, and the first few."""

    kind: str
    count: int
    first: tuple[BadRow, ...]


@dataclass
class BadRows:
    """All bad rows of a source, grouped by kind in the order in which the kinds were met."""

    kinds: dict[str, BadKind] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows are bad."""
        return sum(kind.count for kind in self.kinds.values())

    @property
    def unreadable_rest(self) -> bool:
        """Whether some file could not be read to its end, so that nobody knows how many rows are lost."""
        return bool(UNREADABLE_REST & self.kinds.keys())

    def add(self, row: BadRow) -> None:
        """Count a row."""
        known = self.kinds.get(row.kind, BadKind(row.kind, 0, ()))
        first = known.first if len(known.first) == FIRST_ROWS else (*known.first, row)
        self.kinds[row.kind] = BadKind(row.kind, known.count + 1, first)

    def problems(self) -> list[Problem]:
        """One problem for each kind: first place and message, and the lines of the others."""
        return [_problem(kind) for kind in self.kinds.values()]

    def lines(self) -> list[str]:
        """All that is known, as plain lines: each kind with its count, then its first rows."""
        lines: list[str] = []
        for kind in self.kinds.values():
            lines.append(f"{kind.kind}: {_rows(kind.count)}")
            lines.extend(f"  {row.place}: {row.message}" for row in kind.first)
            if kind.count > len(kind.first):
                lines.append(f"  and {kind.count - len(kind.first)} more")
        return lines

    def error(self, source: str, rows: int, on_bad_rows: str) -> DataError:
        """The error that refuses the source because of these rows."""
        if on_bad_rows == "skip":
            message, hint = (
                f"{source} cannot be read to its end",
                "repair or cut the file; skipping would lose unseen rows",
            )
        else:
            message = f"{self.count} of {_rows(rows)} cannot be used"
            hint = "repair the rows, or set on_bad_rows to skip to leave them out and count them"
        return DataError(message, code="data.bad_rows", place=source, hint=hint, problems=self.problems())


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _problem(kind: BadKind) -> Problem:
    first = kind.first[0]
    others = [_line(row.place, first.place) for row in kind.first[1:]]
    more = "" if kind.count <= len(kind.first) else f" and {kind.count - len(kind.first)} more"
    message = f"{kind.kind} ({_rows(kind.count)}): {first.message}"
    if others:
        message += f"; also at {', '.join(others)}{more}"
    return Problem(f"data.{kind.kind}", message, place=str(first.place), hint=_HINTS.get(kind.kind))


def _line(place: Place, first: Place) -> str:
    return str(place.line) if place.file == first.file else str(place)
