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

MAX_DEPTH = 100
_DEEP = object()
_STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


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
        if line.data.count(b"[") + line.data.count(b"{") > MAX_DEPTH and _too_deep(value):
            yield _deep_row(place)
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
            _skip_mark(file)
            for value in _elements(file, path):
                number += 1
                place = Place(name, number)
                yield _deep_row(place) if value is _DEEP else _row(place, _plain(value))
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


def _deep_row(place: Place) -> BadRow:
    return BadRow(place, "invalid_json", f"lists and objects nested more than {MAX_DEPTH} deep")


def _too_deep(value: Any) -> bool:
    """Whether walking through a value with plain recursion could overflow the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _kind_of(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _elements(file: BinaryIO, path: Path) -> Iterator[Any]:
    """The elements of the list of rows, one at a time; ``_DEEP`` for one that is nested too deep to be built.

    ijson's own ``items`` would do, but keeps the path of names to every value: for a file of nothing but opening
    brackets that takes memory with the square of its size.
    """
    depth = list_depth = 0
    keys: list[str] = []
    key = found = deep = False
    builder: Any = None
    for event, value in ijson.basic_parse(file):
        step = _STEPS.get(event, 0)
        if list_depth and depth + step >= list_depth:
            builder = builder or ijson.ObjectBuilder()
            depth += step
            deep = deep or depth - list_depth > MAX_DEPTH
            if not deep:
                builder.event(event, value)
            if depth == list_depth:
                yield _DEEP if deep else builder.value
                builder, deep = None, False
            continue
        if event == "start_array" and not found and (depth == 0 or (depth == 1 and key)):
            found, list_depth = True, depth + 1
        elif step < 0 and depth == list_depth:
            list_depth = 0
        elif event == "map_key" and depth == 1:
            key = value == "data"
            keys = keys if len(keys) == 10 else [*keys, value]
        depth += step
    if found:
        return
    raise DataError(
        "a JSON file must be a list of rows, or an object with the list under `data`",
        code="data.json_without_rows",
        place=str(path),
        value="keys " + ", ".join(keys) if keys else None,
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
    said = clip(text.strip().split("\n")[0])
    if "trailing garbage" in said:
        return "something follows the end of the JSON; put the rows into one list, or one whole object on each line"
    return said
