"""The bundled sample keeps the promises of its README: form, balance, and a held-out part that is new."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tunesmith.errors import DataError
from tunesmith.samples import sample_folder, sample_names

QUEUES = {"billing", "delivery", "technical", "returns", "account", "sales"}
URGENCIES = {"low", "normal", "high"}
FILES = {"train.jsonl": 324, "heldout.jsonl": 80}


class Row(NamedTuple):
    system: str
    text: str
    answer: str

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = json.loads(self.answer)
        return labels


def read(name: str) -> list[Row]:
    text = (sample_folder("support_routing") / name).read_bytes().decode("utf-8")
    rows = []
    for line in text.splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        assert [list(message) for message in row["messages"]] == [["role", "content"]] * 3
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        rows.append(Row(*(message["content"] for message in row["messages"])))
    return rows


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


def jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / max(1, len(left | right))


def test_an_unknown_sample_is_refused_with_the_known_names() -> None:
    described = sample_folder("support_routing").parent.glob("*/README.md")
    assert sample_names() == sorted(path.parent.name for path in described)
    for name in ("suport_routing", "../samples/support_routing", "", "."):
        with pytest.raises(DataError) as caught:
            sample_folder(name)
        assert caught.value.code == "data.unknown_sample"
        assert "support_routing" in (caught.value.hint or "")


def test_the_folder_holds_what_the_readme_says() -> None:
    folder = sample_folder("support_routing")
    assert isinstance(folder, Path)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name, rows in FILES.items():
        assert f"| `{name}` | {rows} |" in readme
        assert len(read(name)) == rows


@pytest.mark.parametrize("name", FILES)
def test_files_are_utf8_lines_without_oddities(name: str) -> None:
    raw = (sample_folder("support_routing") / name).read_bytes()
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\n\n" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    for row in read(name):
        assert all(char.isprintable() for char in row.text), row.text
        assert row.text == " ".join(row.text.split()), row.text


@pytest.mark.parametrize("name", FILES)
def test_answers_are_compact_json_of_allowed_values(name: str) -> None:
    for row in read(name):
        labels = row.labels
        assert list(labels) == ["queue", "urgency"]
        assert labels["queue"] in QUEUES
        assert labels["urgency"] in URGENCIES
        assert row.answer == json.dumps(labels, separators=(",", ":"))


def test_one_system_message_names_keys_and_values() -> None:
    (system,) = {row.system for name in FILES for row in read(name)}
    assert {"queue", "urgency"} | QUEUES | URGENCIES <= set(words(system))


@pytest.mark.parametrize("name", FILES)
def test_messages_are_of_varied_but_bounded_length(name: str) -> None:
    lengths = [len(row.text.split()) for row in read(name)]
    assert min(lengths) >= 12
    assert max(lengths) <= 70
    assert len(set(lengths)) > 15


@pytest.mark.parametrize("name", FILES)
def test_labels_are_balanced(name: str) -> None:
    rows = read(name)
    queues = Counter(row.labels["queue"] for row in rows)
    urgencies = Counter(row.labels["urgency"] for row in rows)
    cells = Counter(row.answer for row in rows)
    assert all(0.12 <= queues[queue] / len(rows) <= 0.22 for queue in QUEUES), queues
    assert all(urgencies[urgency] / len(rows) >= 0.2 for urgency in URGENCIES), urgencies
    assert len(cells) == len(QUEUES) * len(URGENCIES)
    assert min(cells.values()) >= 0.04 * len(rows), cells


def test_rows_are_in_mixed_order() -> None:
    for name in FILES:
        answers = [row.answer for row in read(name)]
        same_as_before = sum(left == right for left, right in pairwise(answers))
        assert same_as_before < 0.2 * len(answers)


def test_held_out_messages_share_no_sentence_frames_with_training() -> None:
    seen = set[tuple[str, ...]]().union(*(shingles(row.text, 5) for row in read("train.jsonl")))
    held_out = [shingle for row in read("heldout.jsonl") for shingle in shingles(row.text, 5)]
    shared = [shingle for shingle in held_out if shingle in seen]
    assert len(held_out) > 1000
    assert len(shared) <= 0.01 * len(held_out), shared


def test_no_message_is_a_near_duplicate_of_another() -> None:
    texts = [row.text for name in FILES for row in read(name)]
    sets = [shingles(text, 3) for text in texts]
    alike = max(combinations(range(len(texts)), 2), key=lambda pair: jaccard(sets[pair[0]], sets[pair[1]]))
    assert jaccard(sets[alike[0]], sets[alike[1]]) < 0.1, [texts[index] for index in alike]


def test_messages_do_not_open_alike() -> None:
    openings = Counter(tuple(words(row.text)[:3]) for name in FILES for row in read(name))
    assert openings.most_common(1)[0][1] <= 3, openings.most_common(3)
