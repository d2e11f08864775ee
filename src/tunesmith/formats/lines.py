"""Lines of a text file with their numbers, one at a time, plain or gzipped.

A line ends with a line feed, or a carriage return and a line feed. Other separators that Python's ``splitlines`` knows
(U+2028, form feed, ...) are ordinary characters here, so line numbers agree with editors and ``sed -n``.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from tunesmith.errors import DataError
from tunesmith.formats.rows import MAX_ROW_BYTES


@dataclass(frozen=True)
class Line:
    """A line without its ending; ``problem`` is (kind, message) where it cannot be used."""

    number: int
    data: bytes
    problem: tuple[str, str] | None = None


@contextmanager
def open_binary(path: Path, compressed: bool) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacking gzip on the way.

    Raises:
        DataError: The file cannot be opened (``data.unreadable``).
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(
            "cannot read the file", code="data.unreadable", place=str(path), value=error.strerror or str(error)
        ) from error
    with raw:
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield cast("BinaryIO", unpacked)


def read_lines(path: Path, compressed: bool) -> Iterator[Line]:
    """Yield every line; a line that is not clean UTF-8 text carries its problem.

    The UTF-8 byte order mark is taken off the first line. A line over :data:`MAX_ROW_BYTES` is passed over in pieces.
    """
    number = 0
    with open_binary(path, compressed) as file:
        while True:
            try:
                data = file.readline(MAX_ROW_BYTES + 1)
                too_long = len(data) > MAX_ROW_BYTES and not data.endswith(b"\n")
                if too_long:
                    _skip_line(file)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield Line(number + 1, b"", ("broken_file", f"the compressed file breaks off here: {error}"))
                return
            if not data:
                return
            number += 1
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            if too_long:
                yield Line(number, b"", ("line_too_long", f"longer than {MAX_ROW_BYTES >> 20} MiB"))
                continue
            data = data.removesuffix(b"\n").removesuffix(b"\r")
            yield Line(number, data, text_problem(data))


def text_problem(data: bytes) -> tuple[str, str] | None:
    """Say why bytes are no UTF-8 text: (kind, message), or None when they are."""
    if 0 in data:
        return ("nul_byte", f"a NUL byte at byte {data.index(0) + 1} of the line")
    try:
        # Decoding is the fastest check there is; the text itself is made by whoever parses the line.
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return ("invalid_encoding", f"not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1} of the line")
    return None


def _skip_line(file: BinaryIO) -> None:
    while piece := file.readline(1 << 20):
        if piece.endswith(b"\n"):
            return
