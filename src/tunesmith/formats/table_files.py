"""Rows of CSV and TSV files, with the line on which each row starts."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tunesmith.errors import DataError
from tunesmith.formats.examples import Place
from tunesmith.formats.lines import Line, read_lines
from tunesmith.formats.rows import MAX_ROW_BYTES, BadRow, Row, clip

Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL and csv.QUOTE_NONE

_SAMPLE_LINES = 200
_UNCLOSED = "unexpected end of data"


@dataclass(frozen=True)
class TableStyle:
    """How a table is written: what separates its fields, and whether double quotes enclose fields."""

    delimiter: str
    quoted: bool


@dataclass
class _LineFeed:
    """Feeds lines to the csv module and remembers where each row began and what was wrong on the way."""

    lines: Iterator[Line]
    taken: int = 0
    first: int = 0
    problem: tuple[str, str] | None = None

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.taken = line.number
        self.first = self.first or line.number
        self.problem = self.problem or line.problem
        return line.data.decode("utf-8", "replace") + "\n"

    def start_row(self) -> None:
        self.first = 0
        self.problem = None


@dataclass
class _Header:
    names: list[str] = field(default_factory=list)


def read_table(path: Path, name: str, compressed: bool, default_delimiter: str) -> Iterator[Row | BadRow]:
    """Rows of a table whose first line names the columns; all values are text, blank lines are no rows.

    Raises:
        DataError: The header cannot be used (``data.invalid_header``).
    """
    style = table_style(path, compressed, default_delimiter)
    # The csv module keeps one limit for the whole process; its default of 128 KiB refuses ordinary documents.
    csv.field_size_limit(max(MAX_ROW_BYTES, csv.field_size_limit()))
    feed = _LineFeed(read_lines(path, compressed))
    reader = csv.reader(feed, delimiter=style.delimiter, strict=True, quoting=_quoting(style))
    header = _Header()
    while True:
        feed.start_row()
        try:
            values = next(reader)
        except StopIteration:
            if feed.problem is not None:
                yield BadRow(Place(name, feed.first), *feed.problem)
            return
        except csv.Error as error:
            if not header.names:
                raise _header_error(path, f"line {feed.first} cannot be read: {error}") from error
            yield _csv_problem(Place(name, feed.first), error, feed.taken)
            continue
        if not header.names:
            if feed.problem is not None:
                raise _header_error(path, feed.problem[1])
            header.names = _column_names(values, path) if values else []
            continue
        row = _table_row(Place(name, feed.first), values, header.names, feed.problem)
        if row is not None:
            yield row


def table_style(path: Path, compressed: bool, default_delimiter: str) -> TableStyle:
    """Find the delimiter in the header line, and for tab-separated files whether double quotes enclose fields."""
    sample: list[str] = []
    for line in read_lines(path, compressed):
        if line.data.strip():
            sample.append(line.data.decode("utf-8", "replace"))
        if len(sample) == _SAMPLE_LINES:
            break
    if not sample:
        return TableStyle(default_delimiter, True)
    counts = {
        delimiter: _outside_quotes(sample[0], delimiter) for delimiter in dict.fromkeys(default_delimiter + ",\t;")
    }
    best = max(counts, key=lambda delimiter: counts[delimiter])
    delimiter = best if counts[best] else default_delimiter
    # Many tab-separated files hold plain double quotes; in comma-separated ones they always enclose.
    quoted = (
        delimiter != "\t" or _fits(sample, delimiter, csv.QUOTE_MINIMAL) or not _fits(sample, delimiter, csv.QUOTE_NONE)
    )
    return TableStyle(delimiter, quoted)


def _quoting(style: TableStyle) -> Quoting:
    return csv.QUOTE_MINIMAL if style.quoted else csv.QUOTE_NONE


def _outside_quotes(line: str, delimiter: str) -> int:
    return sum(part.count(delimiter) for part in line.split('"')[::2])


def _fits(sample: Sequence[str], delimiter: str, quoting: Quoting) -> bool:
    """Whether every row of the sample has as many fields as the first, apart from one cut off at its end."""
    reader = csv.reader((line + "\n" for line in sample), delimiter=delimiter, strict=True, quoting=quoting)
    widths: list[int] = []
    try:
        widths.extend(len(row) for row in reader)
    except csv.Error as error:
        if _UNCLOSED not in str(error) or len(sample) < _SAMPLE_LINES:
            return False
    return len(set(widths)) == 1


def _column_names(values: Sequence[str], path: Path) -> list[str]:
    names = [value.strip() or f"column {number}" for number, value in enumerate(values, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _header_error(path, f"two columns have the name {twice[0]}")
    return names


def _table_row(
    place: Place, values: Sequence[str], names: Sequence[str], problem: tuple[str, str] | None
) -> Row | BadRow | None:
    if problem is not None:
        return BadRow(place, *problem)
    if not values or (len(values) == 1 and not values[0].strip()):
        return None
    if len(values) != len(names):
        message = f"expected {len(names)} fields as in the header, found {len(values)}: {clip(' | '.join(values))}"
        return BadRow(place, "wrong_column_count", message)
    return Row(place, dict(zip(names, values, strict=True)))


def _csv_problem(place: Place, error: csv.Error, last_line: int) -> BadRow:
    if _UNCLOSED in str(error):
        message = f"a double quote opens here and never closes; lines {place.line} to {last_line} cannot be told apart"
        return BadRow(place, "unclosed_quote", message)
    return BadRow(place, "invalid_csv", str(error))


def _header_error(path: Path, message: str) -> DataError:
    return DataError(
        "the header line cannot be used",
        code="data.invalid_header",
        place=str(path),
        value=message,
        hint="the first line must name the columns, once each, in UTF-8",
    )
