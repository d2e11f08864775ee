"""Tables of plain text: columns two spaces apart, no lines, the same with and without colour."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len

from tunesmith.cli.terminal import Style, clean, out, paint, width

_GAP = "  "
_MIN_WRAPPED = 16


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether numbers stand at the right, and whether it may be wrapped to fit a terminal."""

    heading: str
    right: bool = False
    wrap: bool = False
    style: Style | None = None


@dataclass(frozen=True)
class Cell:
    """A cell with a style of its own."""

    text: str
    style: Style | None = None


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], indent: str = "") -> None:
    """Print a table to stdout."""
    for line in table_lines(columns, rows, sys.stdout, indent):
        out(line)


def table_width(columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]]) -> int:
    """How many columns of a terminal a table takes when nothing is wrapped."""
    texts = [
        [column.heading, *(_cell(row[index], column).text for row in rows)] for index, column in enumerate(columns)
    ]
    return sum(max(map(cell_len, one)) for one in texts) + len(_GAP) * (len(columns) - 1)


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], stream: TextIO, indent: str = ""
) -> list[str]:
    """The lines of a table, painted for a stream and wrapped to its width where it is a terminal."""
    cells = [[_cell(cell, column) for cell, column in zip(row, columns, strict=True)] for row in rows]
    widths = [
        max([cell_len(column.heading), *(cell_len(row[index].text) for row in cells)])
        for index, column in enumerate(columns)
    ]
    limit = width(stream)
    if limit is not None:
        _shrink(widths, columns, limit - len(indent))
    lines = []
    if any(column.heading for column in columns):
        headings = [Cell(column.heading, "bold") for column in columns]
        lines += _row_lines(headings, columns, widths, stream)
    for row in cells:
        lines += _row_lines(row, columns, widths, stream)
    return [f"{indent}{line}" for line in lines]


def _cell(cell: str | Cell, column: Column) -> Cell:
    plain = cell if isinstance(cell, Cell) else Cell(cell)
    return Cell(clean(plain.text).replace("\t", " ").replace("\n", " "), plain.style or column.style)


def _shrink(widths: list[int], columns: Sequence[Column], limit: int) -> None:
    """Take from the widest column that may be wrapped until the table fits, or no such column can give more."""
    wrapped = [index for index, column in enumerate(columns) if column.wrap]
    while wrapped and sum(widths) + len(_GAP) * (len(widths) - 1) > limit:
        widest = max(wrapped, key=lambda index: widths[index])
        if widths[widest] <= _MIN_WRAPPED:
            return
        widths[widest] -= 1


def _row_lines(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], stream: TextIO) -> list[str]:
    parts = [_wrapped(cell.text, size) for cell, size in zip(row, widths, strict=True)]
    lines = []
    for index in range(max(map(len, parts))):
        line = ""
        for part, cell, column, size in zip(parts, row, columns, widths, strict=True):
            text = part[index] if index < len(part) else ""
            padding = " " * (size - cell_len(text))
            painted = paint(text, cell.style, stream)
            line += (padding + painted if column.right else painted + padding) + _GAP
        lines.append(line.rstrip())
    return lines


def _wrapped(text: str, size: int) -> list[str]:
    if cell_len(text) <= size:
        return [text]
    return textwrap.wrap(text, size, break_long_words=True, break_on_hyphens=True) or [""]
