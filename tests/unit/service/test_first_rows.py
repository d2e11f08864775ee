"""The check of a training file shows its first rows as a job would learn them, whatever their file looks like."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from service_site import Site, make_site


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path)
    yield site
    site.context.database.close()


def send(client: httpx.Client, content: bytes, name: str = "rows.jsonl") -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})


@pytest.mark.parametrize(
    ("name", "content", "learned", "read"),
    [
        ("a.jsonl", '{"text": "All of it."}', ["All of it."], []),
        ("b.jsonl", '{"problem": "1 + 1", "solution": "It is 2."}', ["It is 2."], ["1 + 1"]),
        ("c.jsonl", '{"question": "All?", "sql": "SELECT 1"}', ["SELECT 1"], ["All?"]),
        (
            "d.jsonl",
            '{"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]}',
            ["Hello."],
            ["Hi?"],
        ),
        ("e.csv", 'text,label\n"one, and\nmore",good', ["good"], ["one, and\nmore"]),
        ("f.tsv", "question\tanswer\nWhy?\tSo.", ["So."], ["Why?"]),
        (
            "g.json",
            '[{"text": "Ada in Rome", "entities": [[7, 11, "CITY"]]}]',
            ['[{"text": "Rome", "label": "CITY"}]'],
            [],
        ),
        ("h.parquet", None, ["good"], ["a text"]),
        (
            "i.jsonl",
            '{"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "No.", "weight": 0},'
            ' {"role": "user", "content": "B?"}, {"role": "assistant", "content": "Yes."}]}',
            ["Yes."],
            ["A?", "No.", "B?"],
        ),
    ],
)
def test_a_check_shows_rows_as_a_job_learns_them(
    small: Site, name: str, content: str | None, learned: list[str], read: list[str]
) -> None:
    if content is None:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"text": ["a text"], "label": ["good"]}), buffer)
        bytes_ = buffer.getvalue()
    else:
        bytes_ = content.encode()
    client = small.client()
    (row,) = client.post(f"/tunesmith/v1/files/{send(client, bytes_, name).json()['id']}/check").json()["first_rows"]
    assert [part["text"] for part in row["parts"] if part["kind"] == "learned"] == learned
    told = "\n".join(part["text"] for part in row["parts"] if part["kind"] == "read")
    assert all(text in told for text in read)
    assert not [part for part in row["parts"] if part["kind"] == "avoided"]
    assert (row["line"], row["problem"]) == (2 if name.endswith("sv") else 1, None)


def test_a_check_shows_what_is_avoided_what_is_wrong_and_how_much_is_left_out(small: Site) -> None:
    client = small.client()
    rows = [{"prompt": "p" * 2500, "chosen": "good", "rejected": "bad"}, {"prompt": "p", "chosen": "good"}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    told = client.post(f"/tunesmith/v1/files/{send(client, content).json()['id']}/check", json={"method": "dpo"}).json()
    first, second = told["first_rows"]
    parts = [(part["kind"], part["text"], part["left_out"]) for part in first["parts"]]
    assert parts == [("read", "p" * 2000, 500), ("learned", "good", 0), ("avoided", "bad", 0)]
    assert (second["line"], second["parts"]) == (2, [])
    assert second["problem"] == told["problems"][0]["message"]
    nothing = send(client, b"not json\n").json()["id"]
    assert client.post(f"/tunesmith/v1/files/{nothing}/check").json()["first_rows"] == []
