"""What kind of file a file is, from its content and its extension."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from tunesmith.errors import DataError
from tunesmith.formats.json_files import read_json, read_jsonl
from tunesmith.formats.lines import open_binary
from tunesmith.formats.other_files import read_parquet, read_text
from tunesmith.formats.rows import BadRow, Row
from tunesmith.formats.table_files import read_table

EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".md": "text",
}
_PEEK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: the name used in places, its path, its kind, and whether it is gzipped."""

    name: str
    path: Path
    format: str
    compressed: bool = False


def extension_kind(name: str) -> str | None:
    """The kind that a file name promises, looking through ``.gz``; None for an unknown extension."""
    return EXTENSIONS.get(Path(name.lower().removesuffix(".gz")).suffix)


def detect_file(path: Path, name: str | None = None) -> SourceFile:
    """Tell a file's kind. Content decides between JSON and JSONL and for unknown extensions.

    Raises:
        DataError: ``data.empty``, ``data.encoding`` (UTF-16), ``data.unknown_format``, ``data.unreadable``.
    """
    name = name or path.name
    with open_binary(path, False) as file:
        compressed = file.read(2) == _GZIP
    with open_binary(path, compressed) as file:
        try:
            head = file.read(_PEEK_BYTES)
        except (EOFError, zlib.error, OSError):
            head = b""
    if not head and not compressed:
        raise empty_error(str(path))
    promised = extension_kind(name)
    if head.startswith(b"PAR1") and not compressed:
        return SourceFile(name, path, "parquet")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            "the file is UTF-16, not UTF-8",
            code="data.encoding",
            place=str(path),
            hint="save it again with the encoding UTF-8",
        )
    if promised in ("text", "parquet"):
        return SourceFile(name, path, promised, compressed)
    by_content = _json_kind(head.removeprefix(codecs.BOM_UTF8), promised)
    kind = by_content or promised or _table_kind(head)
    if kind is None or head.startswith(b"PK\x03\x04"):
        raise _unknown(path)
    return SourceFile(name, path, kind, compressed)


def read_rows(file: SourceFile) -> Iterator[Row | BadRow]:
    """All rows of a file in order, good and bad, in constant memory."""
    if file.format == "jsonl":
        return read_jsonl(file.path, file.name, file.compressed)
    if file.format == "json":
        return read_json(file.path, file.name, file.compressed)
    if file.format == "parquet":
        return read_parquet(file.path, file.name)
    if file.format == "text":
        return read_text(file.path, file.name, file.compressed)
    return read_table(file.path, file.name, file.compressed, "\t" if file.format == "tsv" else ",")


def empty_error(place: str) -> DataError:
    """The error for a source without a single row."""
    return DataError(
        "there are no rows in it", code="data.empty", place=place, hint="a data set needs at least one example"
    )


def _json_kind(head: bytes, promised: str | None) -> str | None:
    """JSON or JSONL where the content starts like JSON, else None."""
    text = head.lstrip()
    if text[:1] not in (b"{", b"["):
        return None
    first, _, rest = text.partition(b"\n")
    first = first.strip()
    whole = _parses(first)
    if promised in ("csv", "tsv") and not whole:
        return None
    if whole and rest.strip():
        return "jsonl"
    if first in (b"[", b"{") or first[:1] == b"[":
        return "json"
    if whole:
        value = orjson.loads(first)
        return "json" if isinstance(value.get("data"), list) else "jsonl"
    return "json" if promised == "json" else "jsonl"


def _parses(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _table_kind(head: bytes) -> str | None:
    first = head.split(b"\n", maxsplit=1)[0]
    if b"\0" in head:
        return None
    if b"\t" in first:
        return "tsv"
    return "csv" if b"," in first or b";" in first else None


def _unknown(path: Path) -> DataError:
    return DataError(
        "cannot tell what kind of file this is",
        code="data.unknown_format",
        place=str(path),
        hint="use JSONL, JSON, CSV, TSV, Parquet or text; a spreadsheet can be exported as CSV",
    )
