"""Whatever texts come, rows survive being written and read, bad lines are named exactly, and memory stays flat."""

from __future__ import annotations

import csv
import io
import tempfile
import tracemalloc
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.formats.bad_rows import FIRST_ROWS
from tunesmith.formats.examples import LabelledText
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples

ODD = st.sampled_from([*"\u2028\u2029\x0b\x0c\x1c\x85\"\n\t,;'\\\ufeff😀é{[#", '""', "\r\n"])
PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")
TEXT = st.lists(ODD | PLAIN, min_size=1, max_size=12).map("".join).filter(lambda text: text.strip() != "")
LABEL = st.sampled_from(["good", "bad", "ja/nein"])
ROWS = st.lists(st.tuples(TEXT, LABEL), min_size=1, max_size=8)
FAST = settings(max_examples=60, deadline=None)


def as_jsonl(rows: list[tuple[str, str]]) -> bytes:
    return b"".join(orjson.dumps({"text": text, "label": label}) + b"\n" for text, label in rows)


def as_json(rows: list[tuple[str, str]]) -> bytes:
    return orjson.dumps([{"text": text, "label": label} for text, label in rows])


def as_csv(rows: list[tuple[str, str]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    return file.getvalue().encode()


def as_parquet(rows: list[tuple[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), sink)
    return bytes(sink.getvalue())


@FAST
@given(rows=ROWS)
def test_rows_survive_every_kind_of_file(rows: list[tuple[str, str]]) -> None:
    expected = [LabelledText(text, label) for text, label in rows]
    writers = {"rows.jsonl": as_jsonl, "rows.json": as_json, "rows.csv": as_csv, "rows.parquet": as_parquet}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in writers.items():
            path = Path(folder) / name
            path.write_bytes(write(rows))
            found = [example for _, example in read_examples(path)]
            # A table's lines are read by line feeds, and the csv module leaves what is inside quotes alone but for
            # the carriage return before a line feed, which belongs to the line's end.
            wanted = (
                [LabelledText(e.text.replace("\r\n", "\n"), e.label) for e in expected]
                if name == "rows.csv"
                else expected
            )
            assert found == wanted, name


@FAST
@given(
    lines=st.lists(st.sampled_from(["good", "blank", "torn", "list", "bytes", "unlabelled"]), min_size=1, max_size=30)
)
def test_every_bad_jsonl_line_is_named(lines: list[str]) -> None:
    content = {
        "good": b'{"text": "a\\u2028b", "label": "x"}',
        "blank": b"  ",
        "torn": b'{"text": "a", "lab',
        "list": b'["text"]',
        "bytes": b'{"text": "\xe9", "label": "x"}',
        "unlabelled": '{"text": "a\u2028b"}'.encode(),
    }
    kinds = {"torn": "invalid_json", "list": "data_type", "bytes": "invalid_encoding", "unlabelled": "missing_label"}
    lines = ["good", *lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"\n".join(content[line] for line in lines))
        # The shape is forced: where most rows lack the label, the file reads as plain text.
        bad = inspect_source(path, shape="text_label").bad_rows
    expected = {
        kind: [number for number, line in enumerate(lines, start=1) if line == name] for name, kind in kinds.items()
    }
    assert {kind: known.count for kind, known in bad.kinds.items()} == {k: len(v) for k, v in expected.items() if v}
    for kind, known in bad.kinds.items():
        assert [row.place.line for row in known.first] == expected[kind][:FIRST_ROWS]


@FAST
@given(rows=st.lists(st.tuples(TEXT, st.booleans()), min_size=1, max_size=10))
def test_every_bad_csv_row_is_named_by_its_first_line(rows: list[tuple[str, bool]]) -> None:
    content, line, expected = 'text,label\n"first","x"\n', 3, []
    for text, good in rows:
        record = '"' + text.replace('"', '""') + '"' + (',"x"' if good else ',"x","y"') + "\n"
        if not good:
            expected.append(line)
        content += record
        line += record.count("\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(content.encode())
        bad = inspect_source(path, shape="text_label").bad_rows
    known = bad.kinds.get("wrong_column_count")
    assert set(bad.kinds) <= {"wrong_column_count"}
    assert [row.place.line for row in known.first] == expected[:FIRST_ROWS] if known else expected == []
    assert bad.count == len(expected)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    filler = "word " * 4000
    with path.open("w", encoding="utf-8") as file:
        for number in range(2500):
            file.write(f'{{"prompt": "question {number}", "completion": "{filler}"}}\n')
    assert path.stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        inspection = inspect_source(path)
        count = sum(1 for _ in read_examples(inspection))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == inspection.good_rows == 2500
    # The first hundred rows are kept to tell the shape; then one row and one short hash a row.
    assert peak < 8_000_000
