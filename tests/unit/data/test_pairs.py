"""Pairs and ratings as tokens: which rows there are, what trains in them, and what happens to long ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer

from tunesmith.data.pairs import tokenize_pairs
from tunesmith.data.render import Note
from tunesmith.data.store import TokenStore
from tunesmith.errors import UsageError
from tunesmith.formats.examples import Example, Message, Place, PreferencePair, RatedAnswer
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.tasks import prepare_task

ASKED = (Message("user", "where to"), Message("assistant", "which message"), Message("user", "this one"))
SHORT = PreferencePair(ASKED, "up", "down the street")
LONG = PreferencePair(ASKED, "left", "right " * 40)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return tiny_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return inspect_source(path)


def tokens(
    inspection: Inspection, tokenizer: Any, folder: Path, examples: Sequence[Example], **options: Any
) -> TokenStore:
    numbered = [(Place("rows.jsonl", at), example) for at, example in enumerate(examples, start=1)]
    task = prepare_task("preference", inspection, examples)
    return tokenize_pairs(numbered, task, tokenizer, folder / "store", **{"max_length": 4096, **options})


def learned(tokenizer: Any, store: TokenStore) -> list[str]:
    rows = [store[at] for at in range(len(store))]
    return [tokenizer.decode(row.token_ids_T[row.trained_T], skip_special_tokens=True).strip() for row in rows]


def test_a_pair_is_two_rows_that_learn_their_last_answers(
    inspection: Inspection, tokenizer: Any, tmp_path: Path
) -> None:
    store = tokens(inspection, tokenizer, tmp_path, [SHORT, LONG])
    assert (len(store), len(store.items)) == (4, 2)
    chosen, rejected = store.items.item(0)
    assert (chosen.kind, rejected.kind) == (1, 0)
    assert chosen.place == rejected.place == "rows.jsonl:1"
    assert learned(tokenizer, store)[:2] == ["up", "down the street"]
    before = int(chosen.trained_T.argmax())
    assert chosen.token_ids_T[:before].tolist() == rejected.token_ids_T[:before].tolist()


def test_rated_answers_are_rows_of_their_own(inspection: Inspection, tokenizer: Any, tmp_path: Path) -> None:
    store = tokens(inspection, tokenizer, tmp_path, [RatedAnswer(ASKED, "up", False), RatedAnswer(ASKED, "left", True)])
    assert [item.kind for at in range(2) for item in store.items.item(at)] == [0, 1]
    assert learned(tokenizer, store) == ["up", "left"]


def test_a_pair_with_a_long_answer_is_handled_as_a_whole(
    inspection: Inspection, tokenizer: Any, tmp_path: Path
) -> None:
    whole = tokens(inspection, tokenizer, tmp_path / "whole", [SHORT, LONG, SHORT])
    limit = int(whole.lengths_B[:2].max())
    kept = tokens(inspection, tokenizer, tmp_path / "refuse", [SHORT, LONG, SHORT], max_length=limit)
    assert kept.rows_with(Note.TOO_LONG).tolist() == [3]
    options: dict[str, Any] = {"max_length": limit, "on_long_rows": "skip"}
    skipped = tokens(inspection, tokenizer, tmp_path / "skip", [SHORT, LONG, SHORT], **options)
    assert [str(skipped.place(row)) for row in range(4)] == ["rows.jsonl:1"] * 2 + ["rows.jsonl:3"] * 2
    assert (skipped.facts["skipped"], skipped.facts["skipped_first"]) == (1, ["rows.jsonl:2"])
    options["on_long_rows"] = "truncate"
    cut = tokens(inspection, tokenizer, tmp_path / "cut", [SHORT, LONG, SHORT], **options)
    assert cut.rows_with(Note.TRAINED_LOST).tolist() == [3]
    assert int(cut.lengths_B.max()) == limit
    assert cut[3].token_ids_T.tolist() == whole[3].token_ids_T[:limit].tolist()


@pytest.mark.parametrize(
    ("options", "code"), [({"max_length": 1}, "data.max_length"), ({"on_long_rows": "drop"}, "data.on_long_rows")]
)
def test_unusable_limits(
    inspection: Inspection, tokenizer: Any, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tokens(inspection, tokenizer, tmp_path, [SHORT], **options)
    assert caught.value.code == code
