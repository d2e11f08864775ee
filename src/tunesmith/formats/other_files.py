"""Rows of Parquet files and of plain text files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import DataError
from tunesmith.formats.examples import Place
from tunesmith.formats.lines import open_binary
from tunesmith.formats.rows import MAX_ROW_BYTES, BadRow, Row

_BATCH_ROWS = 512


def read_parquet(path: Path, name: str) -> Iterator[Row | BadRow]:
    """Rows of a Parquet file, read in batches. Class numbers become names where the file carries the names.

    Raises:
        DataError: The file is damaged (``data.invalid_parquet``).
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = _class_names(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    for column, classes in names.items():
                        fields[column] = _named(fields.get(column), classes)
                    yield Row(Place(name, number), fields)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if number == 0:
            raise DataError(
                "not a readable Parquet file",
                code="data.invalid_parquet",
                place=str(path),
                value=str(error).split("\n", maxsplit=1)[0],
                hint="was it copied whole?",
            ) from error
        yield BadRow(Place(name, number + 1), "broken_file", f"the file cannot be read past row {number}: {error}")


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of class numbers, which the datasets library leaves in the schema's metadata."""
    try:
        features = orjson.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    names: dict[str, list[str]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else None
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            names[column] = [str(name) for name in inner["names"]]
    return names


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    # -1 is how the datasets library marks a hidden label.
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def read_text(path: Path, name: str, compressed: bool) -> Iterator[Row | BadRow]:
    """A text file as one row with one column ``text``; line ends become line feeds."""
    try:
        with open_binary(path, compressed) as file:
            data = file.read(MAX_ROW_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield BadRow(Place(name, 1), "broken_file", f"the compressed file breaks off: {error}")
        return
    if len(data) > MAX_ROW_BYTES:
        yield BadRow(Place(name, 1), "line_too_long", f"a document longer than {MAX_ROW_BYTES >> 20} MiB")
        return
    if 0 in data:
        line = data.count(b"\n", 0, data.index(0)) + 1
        yield BadRow(Place(name, line), "nul_byte", "a NUL byte")
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error counts from behind a byte order mark; the offending byte itself is reliable.
        line = error.object.count(b"\n", 0, error.start) + 1
        yield BadRow(Place(name, line), "invalid_encoding", f"not UTF-8: byte 0x{error.object[error.start]:02x}")
        return
    yield Row(Place(name, 1), {"text": text.replace("\r\n", "\n")})
