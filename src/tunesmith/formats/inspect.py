"""One pass over a data set before anything is trained: what it is, what is wrong with it, how it is identified."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.bad_rows import BadRows
from tunesmith.formats.detect import Reading, detect_reading, task_of_shape
from tunesmith.formats.examples import Conversation, EntityText, Example, LabelledText, Place, PreferencePair
from tunesmith.formats.identity import example_digest
from tunesmith.formats.kinds import SourceFile, empty_error, read_rows
from tunesmith.formats.rows import BadRow, Row, RowProblem
from tunesmith.formats.shapes import parse_example
from tunesmith.formats.sources import find_files


@dataclass(frozen=True)
class FileFacts:
    """One file: its name in places, where it lies, its SHA-256, size in bytes and kind."""

    name: str
    path: Path
    sha256: str
    bytes: int
    format: str
    compressed: bool = False


@dataclass(frozen=True)
class Inspection:
    """What one pass found.

    Attributes:
        source: What the user named.
        files: The files read, in order.
        shape: A key of :data:`tunesmith.formats.examples.SHAPES`.
        columns: Which column each of our fields is.
        unused_columns: Columns that no field uses.
        rows: All rows, good and bad.
        good_rows: Rows that became examples.
        bad_rows: The others, by kind.
        duplicates: Good rows equal to an earlier one.
        label_counts: Rows of each label; for entities, spans of each label.
        fingerprint: SHA-256 over file hashes, columns and shape.
        warnings: What the user should know.
        asks_for_calls: Whether all good rows are conversations with tools and an answer of some calls one.
    """

    source: str
    files: tuple[FileFacts, ...]
    shape: str
    columns: Mapping[str, str]
    unused_columns: tuple[str, ...]
    rows: int
    good_rows: int
    bad_rows: BadRows
    duplicates: int
    label_counts: dict[str, int]
    fingerprint: str
    warnings: tuple[str, ...]
    asks_for_calls: bool = False

    @property
    def task(self) -> str:
        """The task that ``task: auto`` means here."""
        return "function_calling" if self.asks_for_calls else task_of_shape(self.shape)

    def require_usable(self, on_bad_rows: str = "refuse") -> None:
        """Raise unless the rows may be trained on.

        Raises:
            DataError: There are bad rows and they are refused, or a file could not be read to its end
                (``data.KIND`` of the first kind, with one problem for each kind); no good row at all (same).
            UsageError: ``on_bad_rows`` is neither refuse nor skip.
        """
        check_policy(on_bad_rows)
        if self.bad_rows.unreadable_rest or (self.bad_rows.count and on_bad_rows == "refuse") or not self.good_rows:
            raise self.bad_rows.error(self.source, self.rows, on_bad_rows if self.good_rows else "refuse")

    def to_json(self) -> dict[str, Any]:
        """The inspection as plain data for ``--json`` and reports."""
        return {
            "source": self.source,
            "files": [{"name": f.name, "sha256": f.sha256, "bytes": f.bytes, "format": f.format} for f in self.files],
            "shape": self.shape,
            "task": self.task,
            "columns": dict(self.columns),
            "unused_columns": list(self.unused_columns),
            "rows": self.rows,
            "good_rows": self.good_rows,
            "bad_rows": {
                kind.kind: {
                    "count": kind.count,
                    "first": [{"place": str(row.place), "message": row.message} for row in kind.first],
                }
                for kind in self.bad_rows.kinds.values()
            },
            "duplicates": self.duplicates,
            "label_counts": self.label_counts,
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
        }


def check_policy(on_bad_rows: str) -> None:
    """Raise a UsageError (``data.on_bad_rows``) unless the policy is refuse or skip."""
    if on_bad_rows not in ("refuse", "skip"):
        raise UsageError("on_bad_rows is refuse or skip", code="data.on_bad_rows", value=on_bad_rows)


def inspect_source(
    source: str | Path, *, columns: Mapping[str, str] | None = None, shape: str | None = None
) -> Inspection:
    """Read a whole source once, in constant memory but for one short hash a row.

    Args:
        source: A file, a folder, or a hub id ``org/name[:config][@split]``.
        columns: A map from our field names to columns, for names that are not understood.
        shape: The shape, where the detected one is not wanted.

    Raises:
        DataError: The source is missing, empty, of an unknown kind or shape, or the column map is wrong. Bad rows do
            not raise here: see :meth:`Inspection.require_usable`.
        NetworkError: The hub did not answer.
    """
    name = str(source)
    files = find_files(source)
    facts = tuple(_facts(file) for file in files)
    reading = _reading(name, files, columns, shape)
    bad = BadRows()
    good = duplicates = same_answers = with_tools = calling = 0
    seen: set[bytes] = set()
    labels: Counter[str] = Counter()
    for found in parsed_rows(files, reading.shape, reading.columns):
        if isinstance(found, BadRow):
            bad.add(found)
            continue
        good += 1
        digest = example_digest(found[1])
        duplicates += digest in seen
        seen.add(digest)
        labels.update(_labels(found[1]))
        same_answers += isinstance(found[1], PreferencePair) and found[1].chosen == found[1].rejected
        with_tools += isinstance(found[1], Conversation) and bool(found[1].tools)
        calling += isinstance(found[1], Conversation) and bool(found[1].messages[-1].tool_calls)
    return Inspection(
        source=name,
        files=facts,
        shape=reading.shape,
        columns=reading.columns,
        unused_columns=reading.unused_columns,
        rows=good + bad.count,
        good_rows=good,
        bad_rows=bad,
        duplicates=duplicates,
        label_counts=dict(labels.most_common()),
        fingerprint=_fingerprint(facts, reading),
        warnings=(*reading.warnings, *_pair_warnings(same_answers)),
        asks_for_calls=bool(calling) and with_tools == good,
    )


def parsed_rows(
    files: tuple[SourceFile, ...], shape: str, columns: Mapping[str, str]
) -> Iterator[tuple[Place, Example] | BadRow]:
    """Every row of some files as an example with its place, or as a bad row."""
    for file in files:
        json_cells = file.format in ("csv", "tsv")
        for row in read_rows(file):
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                yield row.place, parse_example(shape, row.fields, columns, json_cells)
            except RowProblem as problem:
                yield BadRow(row.place, problem.kind, problem.message)


def _reading(name: str, files: tuple[SourceFile, ...], columns: Mapping[str, str] | None, shape: str | None) -> Reading:
    """Detect the shape; a source without one readable row is refused here, with whatever is wrong with its rows."""
    rows = chain.from_iterable(read_rows(file) for file in files)
    met = BadRows()
    total = 0

    def counted() -> Iterator[Row | BadRow]:
        nonlocal total
        for row in rows:
            total += 1
            if isinstance(row, BadRow):
                met.add(row)
            yield row

    stream = counted()
    first = next((row for row in stream if isinstance(row, Row)), None)
    if first is None:
        if total:
            raise met.error(name, total, "refuse")
        if any(file.format in ("csv", "tsv") for file in files):
            raise DataError(
                "there is a header line and nothing below it", code="data.header_only", place=name, hint="add rows"
            )
        raise empty_error(name)
    json_cells = any(file.format in ("csv", "tsv") for file in files)
    return detect_reading(chain((first,), stream), name, columns=columns, shape=shape, json_cells=json_cells)


def _facts(file: SourceFile) -> FileFacts:
    with file.path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileFacts(file.name, file.path, digest, file.path.stat().st_size, file.format, file.compressed)


def _labels(example: Example) -> list[str]:
    if isinstance(example, LabelledText):
        return [example.label]
    return [span.label for span in example.spans] if isinstance(example, EntityText) else []


def _pair_warnings(same_answers: int) -> tuple[str, ...]:
    if not same_answers:
        return ()
    rows = "1 row" if same_answers == 1 else f"{same_answers} rows"
    return (f"{rows} with chosen equal to rejected: such pairs teach nothing",)


def _fingerprint(files: tuple[FileFacts, ...], reading: Reading) -> str:
    facts = [[file.sha256 for file in files], sorted(reading.columns.items()), reading.shape]
    return hashlib.sha256(orjson.dumps(facts)).hexdigest()
