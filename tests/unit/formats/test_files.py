"""Every kind of file, and every way in which one can be broken."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.errors import DataError
from tunesmith.formats.examples import Document, LabelledText, PromptCompletion, Translation
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.read import read_examples

Write = Callable[..., Path]
ROW = '{"text": "a", "label": "x"}'
ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def examples(source: Inspection | Path, **options: str) -> list[object]:
    return [example for _, example in read_examples(source, **options)]  # type: ignore[arg-type]


def bad_lines(inspection: Inspection) -> dict[str, list[int]]:
    return {kind.kind: [row.place.line for row in kind.first] for kind in inspection.bad_rows.kinds.values()}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", f"{ROW}\n{ROW}\n", "jsonl"),
        ("a.json", f"[{ROW}, {ROW}]", "json"),
        ("a.json", f"[\n  {ROW},\n  {ROW}\n]\n", "json"),
        ("a.json", f'{{"version": 1, "data": [{ROW}, {ROW}]}}', "json"),
        ("a.json", f'{{"data_of": [1], "info": {{"data": [2]}}, "data": [{ROW}, {ROW}], "more": [3]}}', "json"),
        ("a.json", f"{ROW}\n{ROW}\n", "jsonl"),
        ("a.jsonl", f"[{ROW}, {ROW}]", "json"),
        ("a.csv", "text,label\na,x\na,x\n", "csv"),
        ("a.csv", "text;label\na;x\na;x\n", "csv"),
        ("a.csv", f"{ROW}\n{ROW}\n", "jsonl"),
        ("a.tsv", "text\tlabel\na\tx\na\tx\n", "tsv"),
        ("a.data", "text\tlabel\na\tx\na\tx\n", "tsv"),
        ("a.data", "text,label\na,x\na,x\n", "csv"),
        ("a", f"{ROW}\n{ROW}\n", "jsonl"),
    ],
)
@pytest.mark.parametrize("variant", ["plain", "mark", "crlf", "no last line feed", "blank lines", "gzip"])
def test_kinds_and_their_variants(write: Write, name: str, content: str, kind: str, variant: str) -> None:
    data = content.encode()
    if variant == "mark":
        data = codecs.BOM_UTF8 + data
    elif variant == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif variant == "no last line feed":
        data = data.rstrip(b"\n")
    elif variant == "blank lines":
        data = data.replace(b"\n", b"\n\n") + b"\n \n"
    elif variant == "gzip":
        name, data = name + ".gz", gzip.compress(data, mtime=0)
    path = write(name, data)
    inspection = inspect_source(path)
    assert inspection.bad_rows.lines() == []
    assert (inspection.files[0].format, inspection.files[0].name) == (kind, name)
    assert inspection.files[0].sha256 == hashlib.sha256(data).hexdigest()
    assert inspection.files[0].bytes == len(data)
    assert examples(inspection) == [LabelledText("a", "x")] * 2
    assert (inspection.duplicates, inspection.label_counts) == (1, {"x": 2})


def test_parquet_with_class_names(tmp_path: Path) -> None:
    features = {
        "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    table = table.replace_schema_metadata({"huggingface": orjson.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "rows.parquet")
    inspection = inspect_source(tmp_path / "rows.parquet")
    assert examples(inspection, on_bad_rows="skip") == [LabelledText("a", "good"), LabelledText("b", "bad")]
    assert bad_lines(inspection) == {"missing_label": [3]}


def test_parquet_tags_as_numbers_with_names(tmp_path: Path) -> None:
    names = {"feature": {"names": ["O", "B-city"], "_type": "ClassLabel"}, "_type": "Sequence"}
    table = pa.table({"tokens": [["to", "Rome"]], "ner_tags": [[0, 1]]})
    table = table.replace_schema_metadata({"huggingface": orjson.dumps({"info": {"features": {"ner_tags": names}}})})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert inspect_source(tmp_path / "rows.parquet").label_counts == {"city": 1}


def test_a_folder_of_texts(write: Write, tmp_path: Path) -> None:
    write("texts/b/two.md", "two\r\nlines\r\n")
    write("texts/a.txt", codecs.BOM_UTF8 + "één".encode())
    write("texts/c.txt", "")
    write("texts/d.txt", b"one\ntwo\n\xff\n")
    write("texts/.hidden/e.txt", "hidden")
    inspection = inspect_source(tmp_path / "texts")
    assert inspection.shape == "text"
    assert bad_lines(inspection) == {"empty_text": [1], "invalid_encoding": [3]}
    assert examples(inspection, on_bad_rows="skip") == [Document("één"), Document("two\nlines\n")]
    assert [file.name for file in inspection.files] == ["a.txt", "b/two.md", "c.txt", "d.txt"]


def test_a_folder_of_data_files_is_one_set(write: Write, tmp_path: Path) -> None:
    write("set/README.md", "about")
    write("set/part-2.jsonl", [ROWS[1]])
    write("set/part-1.jsonl", [ROWS[0]])
    assert examples(tmp_path / "set") == [LabelledText("a", "x"), LabelledText("b", "y")]


def test_jsonl_names_every_bad_line(write: Write) -> None:
    good = ROW.encode()
    lines = [
        good,
        b"",
        b'{"text": "a',
        good,
        b'{"text": "\xff", "label": "x"}',
        b'{"text": "a\x00"}',
        b"[1]",
        good,
        b"{",
    ]
    inspection = inspect_source(write("rows.jsonl", b"\n".join(lines)))
    assert bad_lines(inspection) == {
        "invalid_json": [3, 9],
        "invalid_encoding": [5],
        "nul_byte": [6],
        "data_type": [7],
    }
    assert (inspection.rows, inspection.good_rows) == (8, 3)


@pytest.mark.parametrize("depth", [150, 100_000])
def test_deeply_nested_rows_are_bad_rows(write: Write, depth: int) -> None:
    deep = '{"text": "a", "label": ' + "[" * depth + "]" * depth + "}"
    for name, content in (("rows.jsonl", f"{ROW}\n{deep}\n{ROW}\n"), ("rows.json", f"[{ROW}, {deep}, {ROW}]")):
        inspection = inspect_source(write(name, content))
        assert (bad_lines(inspection), inspection.good_rows) == ({"invalid_json": [2]}, 2)


def test_json_objects_over_several_lines_are_explained(write: Write) -> None:
    with pytest.raises(DataError, match="something follows the end of the JSON; put the rows into one list"):
        inspect_source(write("rows.jsonl", '{\n "text": "a"\n}\n{\n "text": "b"\n}\n'))


def test_csv_names_the_line_on_which_a_row_starts(write: Write) -> None:
    content = (
        b"text,label\n"
        b'"two\nlines",x\n'  # 2 and 3
        b"a\n"  # 4: too few fields
        b"\n"
        b'"three\n\nlines, ""quoted""",y\r\n'  # 6 to 8
        b"a,b,c\n"  # 9: too many fields
        b"\xff,x\n"  # 10
        b'"a"b,x\n'  # 11: text behind a closing quote
        b'"a\n\x00",x\n'  # 12 and 13
        b"last,"  # 14: no label
    )
    inspection = inspect_source(write("rows.csv", content))
    assert bad_lines(inspection) == {
        "wrong_column_count": [4, 9],
        "invalid_encoding": [10],
        "invalid_csv": [11],
        "nul_byte": [12],
        "missing_label": [14],
    }
    assert [(str(place), example) for place, example in read_examples(inspection, on_bad_rows="skip")] == [
        ("rows.csv:2", LabelledText("two\nlines", "x")),
        ("rows.csv:6", LabelledText('three\n\nlines, "quoted"', "y")),
    ]


@pytest.mark.parametrize(
    ("name", "content", "kind", "line"),
    [
        ("rows.csv", 'text,label\na,x\n"b,y\nc,z\n', "unclosed_quote", 3),
        ("rows.json", f"[{ROW}, {ROW[:-4]}", "broken_file", 2),
        ("rows.json", f"[{ROW}, {ROW}] rest", "broken_file", 3),
        ("rows.jsonl.gz", gzip.compress(f"{ROW}\n".encode() * 3, mtime=0)[:-4], "broken_file", 4),
    ],
)
def test_a_file_that_breaks_off_is_refused_even_when_bad_rows_are_skipped(
    write: Write, name: str, content: str | bytes, kind: str, line: int
) -> None:
    inspection = inspect_source(write(name, content))
    assert bad_lines(inspection) == {kind: [line]}
    for policy in ("refuse", "skip"):
        with pytest.raises(DataError) as caught:
            inspection.require_usable(policy)
        assert caught.value.code == "data.bad_rows"


def test_tabs_with_plain_quotes(write: Write) -> None:
    plain = write("plain.tsv", 'source\ttarget\n"Yes\tJa"\nNo" he said\tNein\n')
    assert examples(plain) == [Translation('"Yes', 'Ja"'), Translation('No" he said', "Nein")]
    enclosed = write("enclosed.tsv", 'source\ttarget\n"Yes\tno"\t"Ja ""so"""\n')
    assert examples(enclosed) == [Translation("Yes\tno", 'Ja "so"')]


def test_csv_cells_may_hold_json(write: Write) -> None:
    path = write("rows.csv", 'tokens,ner_tags\n"[""to"", ""Rome""]","[""O"", ""B-city""]"\n')
    assert inspect_source(path).label_counts == {"city": 1}


def test_long_csv_fields(write: Write) -> None:
    text = "word " * 60_000
    assert examples(write("rows.csv", f'text\n"{text}"\n')) == [Document(text)]


def test_numbers_in_json_files_stay_what_they_are(write: Write) -> None:
    path = write(
        "rows.json", '[{"text": "a", "label": 1.5, "n": 123456789012345678901234567890}, {"text": "b", "label": 2}]'
    )
    assert examples(path) == [LabelledText("a", "1.5"), LabelledText("b", "2")]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.jsonl", "", "data.empty"),
        ("rows.jsonl", "\n\n", "data.empty"),
        ("rows.json", "[]", "data.empty"),
        ("rows.csv", "text,label\n", "data.header_only"),
        ("rows.csv", "text,text\na,b\n", "data.invalid_header"),
        ("rows.csv", b"te\xffxt,label\na,b\n", "data.invalid_header"),
        ("rows.json", '{"version": 1}\n', "data.unknown_shape"),
        ("rows.json", '{\n"version": 1}\n', "data.json_without_rows"),
        ("rows.jsonl", "nonsense\nnonsense\n", "data.bad_rows"),
        ("rows.csv", codecs.BOM_UTF16_LE + "text,label\na,x\n".encode("utf-16-le"), "data.encoding"),
        ("rows.xlsx", b"PK\x03\x04rest", "data.unknown_format"),
        ("rows.csv", b"PK\x03\x04rest", "data.unknown_format"),
        ("rows.parquet", "no parquet", "data.invalid_parquet"),
        ("rows.parquet", b"PAR1 cut off", "data.invalid_parquet"),
    ],
)
def test_files_that_cannot_be_read(write: Write, name: str, content: str | bytes, code: str) -> None:
    with pytest.raises(DataError) as caught:
        inspect_source(write(name, content))
    assert caught.value.code == code
    assert name in str(caught.value)


def test_folders_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write("pictures/a.png", b"\x89PNG")
    write("mixed/a.txt", "a")
    write("mixed/b.jsonl", ROWS)
    write("splits/train.jsonl", ROWS)
    write("splits/test.jsonl", ROWS)
    codes = {
        "empty": "data.no_text",
        "pictures": "data.no_text",
        "mixed": "data.mixed_folder",
        "splits": "data.several_splits",
    }
    for folder, code in codes.items():
        with pytest.raises(DataError) as caught:
            inspect_source(tmp_path / folder)
        assert (caught.value.code, caught.value.place) == (code, str(tmp_path / folder))


def test_a_file_that_changed_is_noticed(write: Write) -> None:
    path = write("rows.jsonl", ROWS)
    inspection = inspect_source(path)
    write("rows.jsonl", [*ROWS, *ROWS])
    with pytest.raises(DataError, match="changed after it was inspected"):
        list(read_examples(inspection))


def test_fingerprint_depends_on_content_columns_and_shape(write: Write) -> None:
    rows = [{"prompt": "a", "completion": "b", "output": "c"}]
    first = inspect_source(write("one/rows.jsonl", rows)).fingerprint
    assert inspect_source(write("two/same.jsonl", rows)).fingerprint == first
    mapped = inspect_source(write("one/rows.jsonl", rows), columns={"completion": "output"})
    assert mapped.fingerprint != first
    assert examples(mapped) == [PromptCompletion("a", "c")]
    assert inspect_source(write("one/rows.jsonl", [*rows, *rows])).fingerprint != first
    assert orjson.loads(orjson.dumps(mapped.to_json()))["files"][0]["sha256"] == mapped.files[0].sha256


def test_reading_loads_neither_torch_nor_what_the_file_does_not_need(write: Write) -> None:
    code = (
        "import sys; from tunesmith.formats.split import plan_split; plan_split(sys.argv[1], fraction=0.5, seed=0);"
        "print({'torch', 'transformers', 'pyarrow', 'huggingface_hub', 'fastapi'} & set(sys.modules))"
    )
    path = write("rows.jsonl", ROWS)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
