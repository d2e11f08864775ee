"""Rows of JSONL files and of JSON files."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import ijson  # type: ignore[import-untyped]
import orjson

from tunesmith.errors import DataError
from tunesmith.formats.examples import Place
from tunesmith.formats.lines import open_binary, read_lines
from tunesmith.formats.rows import BadRow, Row, clip


def read_jsonl(path: Path, name: str, compressed: bool) -> Iterator[Row | BadRow]:
    """One JSON object a line; blank lines are no rows."""
    for line in read_lines(path, compressed):
        place = Place(name, line.number)
        if line.problem is not None:
            yield BadRow(place, *line.problem)
            continue
        if not line.data.strip():
            continue
        try:
            value = orjson.loads(line.data)
        except orjson.JSONDecodeError as error:
            yield BadRow(place, "invalid_json", f"not valid JSON: {error.msg} at column {error.colno}")
            continue
        yield _row(place, value)


def read_json(path: Path, name: str, compressed: bool) -> Iterator[Row | BadRow]:
    """The elements of a JSON array, or of the list under ``data`` in a JSON object, streamed.

    Raises:
        DataError: The file is an object without a list under ``data`` (``data.json_without_rows``).
    """
    number = 0
    try:
        with open_binary(path, compressed) as file:
            prefix = _rows_prefix(file, path)
        with open_binary(path, compressed) as file:
            _skip_mark(file)
            for value in ijson.items(file, prefix):
                number += 1
                yield _row(Place(name, number), _plain(value))
    except (ijson.JSONError, UnicodeDecodeError) as error:
        message = f"the JSON breaks off in row {number + 1}: {_first_line(error)}"
        yield BadRow(Place(name, number + 1), "broken_file", message)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"the compressed file breaks off in row {number + 1}: {error}"
        yield BadRow(Place(name, number + 1), "broken_file", message)


def _row(place: Place, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(place, value)
    return BadRow(place, "data_type", f"a row must be a JSON object, this is {_kind_of(value)}: {clip(value)}")


def _kind_of(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _rows_prefix(file: BinaryIO, path: Path) -> str:
    """Where the rows are: ijson's prefix for an array, or for the list under ``data``."""
    _skip_mark(file)
    keys: list[str] = []
    for prefix, event, value in ijson.parse(file):
        if prefix == "" and event == "start_array":
            return "item"
        if prefix == "data" and event == "start_array":
            return "data.item"
        if prefix == "" and event == "map_key":
            keys.append(value)
    raise DataError(
        "a JSON file must be a list of rows, or an object with the list under `data`",
        code="data.json_without_rows",
        place=str(path),
        value="keys " + ", ".join(keys[:10]) if keys else None,
        hint="write one JSON object a line (.jsonl), or put the rows into a list",
    )


def _skip_mark(file: BinaryIO) -> None:
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0, io.SEEK_SET)


def _plain(value: Any) -> Any:
    # ijson gives decimals for fractions; it could give floats itself, but then a long integer ends the whole reading.
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _first_line(error: Exception) -> str:
    first = error.args[0] if error.args else str(error)
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
    return clip(text.strip().split("\n")[0])
