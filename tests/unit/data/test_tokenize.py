"""Token stores: what is written is what is read, whatever the policy; stale or damaged tokens are never taken."""

from __future__ import annotations

import gc
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import STYLES, make_tokenizer, styled_tokenizer

from tunesmith.data.cache_key import cache_key
from tunesmith.data.render import Note, render
from tunesmith.data.statistics import length_histogram
from tunesmith.data.store import TokenStore, open_token_store
from tunesmith.data.token_cache import cached_token_store
from tunesmith.data.tokenize import shared_prefix_length, tokenize_examples
from tunesmith.errors import DataError, OutputError, SupervisionError, UsageError
from tunesmith.formats.examples import Document, Example, LabelledText, Place
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.read import read_examples
from tunesmith.tasks import PreparedTask, prepare_task

Tokenized = Callable[..., tuple[TokenStore, Inspection]]

LABELLED = [{"text": f"text {n} 😀", "label": f"label {n % 3}"} for n in range(300)]


def task_for(inspection: Inspection) -> PreparedTask:
    return prepare_task("auto", inspection, [example for _, example in read_examples(inspection)])


@pytest.mark.parametrize("style", ["chatml", "gemma", "first_mark"])
def test_a_store_holds_the_rows_as_rendered_one_by_one(tokenized: Tokenized, style: str) -> None:
    store, inspection = tokenized(LABELLED, style)
    task = task_for(inspection)
    assert len(store) == 300
    lengths, trained = [], []
    for index, (place, example) in enumerate(read_examples(inspection)):
        row, alone = store[index], render(styled_tokenizer(style), task.training(example))
        assert row.place == str(place)
        assert row.token_ids_T.dtype == np.int64
        assert row.token_ids_T.tolist() == alone.token_ids_T.tolist()
        assert row.trained_T.tolist() == alone.trained_T.tolist()
        lengths.append(len(alone.token_ids_T))
        trained.append(int(alone.trained_T.sum()))
    assert store.lengths_B.tolist() == lengths
    assert store.trained_counts_B.tolist() == trained
    assert store[-1].place == store[299].place
    with pytest.raises(IndexError):
        store[300]


def test_the_shared_prefix_ends_before_the_text_and_never_in_an_answer(tokenized: Tokenized) -> None:
    store, _ = tokenized(LABELLED)
    tokenizer = styled_tokenizer("chatml")
    shared = tokenizer.decode(store[0].token_ids_T[: shared_prefix_length(store)].tolist())
    assert shared.endswith("label 2<|im_end|>\n<|im_start|>user\ntext ")
    same, _ = tokenized([{"text": "same", "label": "same"}] * 3)
    first = int(np.flatnonzero(same[0].trained_T)[0])
    assert shared_prefix_length(same) == first
    alone, _ = tokenized([{"text": "one"}, {"text": "one two"}])
    assert shared_prefix_length(alone) == 1


def test_long_rows(tokenized: Tokenized) -> None:
    long = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 50}]}
    short = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    kept, _ = tokenized([short, long], max_length=40)
    assert kept.rows_with(Note.TOO_LONG).tolist() == [1]
    assert kept.lengths_B[1] > 40
    skipped, _ = tokenized([short, long], max_length=40, on_long_rows="skip")
    assert len(skipped) == 1
    assert skipped.facts["skipped"] == 1
    assert skipped.facts["skipped_first"][0].endswith(":2")
    cut, _ = tokenized([short, long], max_length=40, on_long_rows="truncate")
    assert cut.lengths_B[1] == 40
    assert cut[1].token_ids_T.tolist() == kept[1].token_ids_T[:40].tolist()
    assert cut.rows_with(Note.TRAINED_LOST).tolist() == [1]


@pytest.mark.parametrize("max_length", [2, 3, 7, 50, 51, 52, 10_000])
def test_a_long_text_is_laid_out_so_that_every_token_trains_once(tokenized: Tokenized, max_length: int) -> None:
    text = "The capital of France is Paris. " * 5
    store, inspection = tokenized([{"text": text}], max_length=max_length)
    example = next(example for _, example in read_examples(inspection))
    assert isinstance(example, Document)
    whole = render(styled_tokenizer("chatml"), example)
    trained = [row.token_ids_T[row.trained_T] for row in (store[n] for n in range(len(store)))]
    assert np.concatenate(trained).tolist() == whole.token_ids_T[1:].tolist()
    assert store.lengths_B.max() <= max_length
    assert store.lengths_B.min() >= 2
    assert {row.place for row in (store[n] for n in range(len(store)))} == {store[0].place}


def test_all_rows_that_the_template_refuses_are_counted(tokenized: Tokenized, tmp_path: Path) -> None:
    twice = {"messages": [{"role": role, "content": "a"} for role in ("user", "user", "assistant")]}
    good = {"messages": [{"role": role, "content": "a"} for role in ("user", "assistant")]}
    with pytest.raises(SupervisionError) as caught:
        tokenized([good, *[twice] * 14], "gemma")
    assert "14 of 15 rows cannot be rendered" in str(caught.value)
    assert len(caught.value.problems) == 10
    assert str(caught.value.problems[0].place).endswith(":2")
    assert not [path for path in tmp_path.iterdir() if "store" in path.name]


def test_limit_and_progress(tokenized: Tokenized) -> None:
    seen: list[int] = []
    store, _ = tokenized(LABELLED, limit=260, on_progress=seen.append)
    assert len(store) == 260
    assert seen[-1] == 260
    assert len(seen) > 1
    assert seen == sorted(seen)


def test_wrong_calls(tokenized: Tokenized) -> None:
    with pytest.raises(UsageError, match="refuse, skip or truncate"):
        tokenized(LABELLED, on_long_rows="drop")
    with pytest.raises(UsageError, match="at least 2 tokens"):
        tokenized(LABELLED, max_length=1)


def test_an_existing_folder_is_left_alone(tokenized: Tokenized, tmp_path: Path) -> None:
    store, inspection = tokenized(LABELLED)
    with pytest.raises(OutputError, match="exists already"):
        tokenize_examples(
            read_examples(inspection), task_for(inspection), styled_tokenizer("chatml"), store.folder, max_length=99
        )
    assert len(open_token_store(store.folder)) == 300


@pytest.mark.parametrize("name", ["token_ids", "trained", "row_starts", "notes", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_stores_are_refused_and_made_again(tokenized: Tokenized, name: str, damage: str) -> None:
    store, _ = tokenized(LABELLED[:20])
    ids = store[3].token_ids_T.tolist()
    path = store.folder / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x15
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(DataError) as caught:
        open_token_store(store.folder)
    assert caught.value.code in ("data.tokens_corrupted", "data.tokens_missing")

    def write(folder: Path) -> TokenStore:
        again, _ = tokenized(LABELLED[:20])
        again.folder.rename(folder)
        return open_token_store(folder)

    healed = cached_token_store(store.folder.parent, store.folder.name, write)
    assert healed[3].token_ids_T.tolist() == ids
    # Now it is whole and is not written once more.
    assert len(cached_token_store(store.folder.parent, store.folder.name, lambda folder: pytest.fail("again"))) == 20


def test_the_cache_key_changes_with_everything_that_matters(tokenized: Tokenized) -> None:
    _, inspection = tokenized(LABELLED)
    _, other_labels = tokenized([*LABELLED, {"text": "x", "label": "new"}])
    tokenizer = make_tokenizer(STYLES["chatml"])
    same: dict[str, Any] = {
        "data_fingerprint": inspection.fingerprint,
        "rows": "train",
        "task": task_for(inspection),
        "max_length": 512,
        "on_long_rows": "refuse",
    }
    key = cache_key(tokenizer, **same)
    assert key == cache_key(make_tokenizer(STYLES["chatml"]), **same)
    # What earlier calls leave behind in a tokenizer does not matter.
    tokenizer("a b c", truncation=True, max_length=2)
    assert key == cache_key(tokenizer, **same)
    changes: list[dict[str, Any]] = [
        {"data_fingerprint": "x"},
        {"rows": "validation"},
        {"task": task_for(other_labels)},
        {"max_length": 511},
        {"on_long_rows": "skip"},
        {"limit": 10},
    ]
    keys = [cache_key(tokenizer, **{**same, **change}) for change in changes]
    templated = make_tokenizer(STYLES["chatml"])
    templated.chat_template += " "
    grown = make_tokenizer(STYLES["chatml"])
    grown.add_tokens(["one more"])
    keys += [cache_key(other, **same) for other in (templated, grown, styled_tokenizer("chatml_trimmed"))]
    assert len({key, *keys}) == 1 + len(keys)


def test_memory_stays_flat(tmp_path: Path, tokenized: Tokenized) -> None:
    _, inspection = tokenized(LABELLED)
    task, tokenizer = task_for(inspection), styled_tokenizer("chatml")

    def examples(count: int) -> Iterator[tuple[Place, Example]]:
        for number in range(count):
            yield Place("rows.jsonl", number + 1), LabelledText(f"text {number} " + "and so on " * 20, "label 1")

    def peak(count: int) -> int:
        gc.collect()
        tracemalloc.start()
        tokenize_examples(examples(count), task, tokenizer, tmp_path / f"flat{count}", max_length=1000)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(256), peak(1280)
    # The token ids alone of the further rows would take more.
    assert many - few < 300_000


def test_an_empty_set(tokenized: Tokenized, tmp_path: Path) -> None:
    _, inspection = tokenized(LABELLED)
    store = tokenize_examples([], task_for(inspection), styled_tokenizer("chatml"), tmp_path / "none", max_length=10)
    assert len(store) == 0
    assert shared_prefix_length(store) == 0
    assert store.lengths_B.tolist() == []


def test_the_histogram_covers_every_row() -> None:
    lengths = np.array([1, 16, 17, 32, 33, 200])
    assert [(b.up_to, b.rows) for b in length_histogram(lengths)] == [(16, 2), (32, 2), (64, 1), (128, 0), (256, 1)]
    assert [(b.up_to, b.rows) for b in length_histogram(np.array([600]))] == [(1024, 1)]


def test_a_full_disk_leaves_nothing(tokenized: Tokenized, tmp_path: Path) -> None:
    _, inspection = tokenized(LABELLED)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(OutputError) as caught:
            tokenize_examples(
                read_examples(inspection),
                task_for(inspection),
                styled_tokenizer("chatml"),
                tmp_path / "full" / "store",
                max_length=1000,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    assert caught.value.code == "output.disk_full"
    assert list((tmp_path / "full").iterdir()) == []
