"""Examples of heads, and of models with encoder and decoder, to tokens on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.labelled import LabelledRow, make_reader
from tunesmith.data.render import Note
from tunesmith.data.store import StoreWriter, TokenStore, new_store, open_token_store
from tunesmith.data.template import require_fast
from tunesmith.data.tokenize import BATCH_ROWS, FIRST_ROWS, OnLongRows
from tunesmith.data.types import TokenIds
from tunesmith.errors import Problem, SupervisionError, UsageError
from tunesmith.formats.examples import Example, Message, Place
from tunesmith.recipe.objectives import HEADS
from tunesmith.tasks import PreparedTask


def tokenize_labelled(
    examples: Iterable[tuple[Place, Example]],
    task: PreparedTask,
    tokenizer: Any,
    folder: Path,
    *,
    objective: str,
    model_kind: str,
    max_length: int,
    on_long_rows: OnLongRows = "refuse",
    on_progress: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> TokenStore:
    """Write the rows of an objective with a head as a labelled store.

    A row that is cut keeps its closing special token. The label of a row is never lost by that; tags of words in the
    part that is cut away are, which the row's notes say; a question whose answer is cut away is left out and counted.

    Args:
        examples: As in :func:`tunesmith.data.tokenize.tokenize_examples`; so are arguments not named here.
        task: Its labels are the head's.
        tokenizer: Of the model.
        folder: Must not exist.
        objective: A name of :data:`tunesmith.recipe.objectives.HEADS`.
        model_kind: ``encoder`` or ``causal``.
        max_length: Most tokens of a row.
        on_long_rows: What happens with longer ones.
        on_progress: Told of the examples done.
        limit: Take only so many examples.

    Raises:
        SupervisionError: Rows whose labels cannot be put on tokens (``supervision.rows``), the first named.
        OutputError: The folder exists or cannot be written.
        UsageError: ``data.max_length`` or ``data.on_long_rows``.
    """
    assert objective in HEADS
    reader = make_reader(objective, task.labels, tokenizer, model_kind)
    work = _Work(max_length, on_long_rows)
    work.facts |= {"objective": objective, "labels": list(reader.labels), "model_kind": model_kind}
    require_fast(tokenizer)
    with new_store(folder, work.facts, labelled=True) as writer:
        for place, example in work.counted(islice(examples, limit), on_progress):
            try:
                row = reader.encode(example)
            except SupervisionError as error:
                work.refuse(place, error)
                continue
            _write_labelled(writer, work, place, row, model_kind)
        work.raise_refused()
    return open_token_store(folder)


def tokenize_seq2seq(
    examples: Iterable[tuple[Place, Example]],
    task: PreparedTask,
    tokenizer: Any,
    folder: Path,
    *,
    max_length: int,
    on_long_rows: OnLongRows = "refuse",
    on_progress: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> TokenStore:
    """Write what is read and behind it what is written, which alone trains, for models with encoder and decoder.

    Both are the tokenizer's own tokens with its special ones; ``max_length`` bounds each of the two. Arguments and
    errors are those of :func:`tokenize_labelled`.
    """
    work = _Work(max_length, on_long_rows)
    work.facts |= {"objective": "seq2seq"}
    require_fast(tokenizer)
    with new_store(folder, work.facts) as writer:
        for place, example in work.counted(islice(examples, limit), on_progress):
            question = task.evaluation(example)
            if question is None:
                work.refuse(place, SupervisionError("the row has no answer to learn", code="supervision.no_answer"))
                continue
            read_T = source_tokens(tokenizer, question.messages)
            written_T = _ids(tokenizer(text_target=question.shown_reference, verbose=False))
            _write_seq2seq(writer, work, place, read_T, written_T)
        work.raise_refused()
    return open_token_store(folder)


def source_text(messages: Iterable[Message]) -> str:
    """What an encoder reads: the turns before the answer behind one another, with an empty line between them."""
    return "\n\n".join(message.content for message in messages)


def source_tokens(tokenizer: Any, messages: Iterable[Message]) -> TokenIds:
    """:func:`source_text` as tokens."""
    return _ids(tokenizer(source_text(messages), verbose=False))


def _ids(encoding: Any) -> TokenIds:
    return np.asarray(encoding["input_ids"], dtype=np.int64)


class _Work:
    """One pass over examples: what it was asked for and what it counted."""

    def __init__(self, max_length: int, on_long_rows: OnLongRows) -> None:
        if max_length < 2:
            raise UsageError("a row needs at least 2 tokens", code="data.max_length", value=max_length)
        if on_long_rows not in ("refuse", "skip", "truncate"):
            raise UsageError("on_long_rows is refuse, skip or truncate", code="data.on_long_rows", value=on_long_rows)
        self.facts: dict[str, Any] = {
            "examples": 0,
            "max_length": max_length,
            "on_long_rows": on_long_rows,
            "skipped": 0,
            "skipped_first": [],
            "split_documents": 0,
        }
        self._refused: list[Problem] = []
        self._refused_count = 0

    def counted(
        self, examples: Iterable[tuple[Place, Example]], on_progress: Callable[[int], None] | None
    ) -> Iterable[tuple[Place, Example]]:
        for place, example in examples:
            self.facts["examples"] += 1
            yield place, example
            if on_progress is not None and self.facts["examples"] % BATCH_ROWS == 0:
                on_progress(self.facts["examples"])

    def skip(self, place: Place) -> None:
        self.facts["skipped"] += 1
        if len(self.facts["skipped_first"]) < FIRST_ROWS:
            self.facts["skipped_first"].append(str(place))

    def refuse(self, place: Place, error: SupervisionError) -> None:
        self._refused_count += 1
        if len(self._refused) < FIRST_ROWS:
            self._refused.append(Problem(error.code, error.message, str(place), error.value, error.hint))

    def raise_refused(self) -> None:
        if self._refused_count:
            more = self._refused_count - len(self._refused)
            raise SupervisionError(
                f"{self._refused_count} of {self.facts['examples']} rows cannot be labelled"
                + (f" (the first {len(self._refused)} are shown)" if more else ""),
                code="supervision.rows",
                problems=self._refused,
            )


def _write_labelled(writer: StoreWriter, work: _Work, place: Place, row: LabelledRow, model_kind: str) -> None:
    ids_T, marked_T, labels_T, notes = row.token_ids_T, row.marked_T, row.label_ids_T, Note(0)
    limit, policy = work.facts["max_length"], work.facts["on_long_rows"]
    if len(ids_T) > limit:
        if policy == "skip":
            work.skip(place)
            return
        if policy == "refuse":
            notes = Note.TOO_LONG
        else:
            kept = [*range(limit - row.closing), *range(len(ids_T) - row.closing, len(ids_T))]
            lost = labels_T[marked_T].sum() > labels_T[kept][marked_T[kept]].sum()
            notes = Note.CUT
            if work.facts["objective"] == "question_answering" and lost:
                work.skip(place)
                return
            ids_T, marked_T, labels_T = ids_T[kept], marked_T[kept], labels_T[kept]
            if work.facts["objective"] == "sequence_classification" and model_kind == "causal":
                marked_T[-1], labels_T[-1] = True, row.label_ids_T[-1]
            elif work.facts["objective"] == "token_classification" and lost:
                notes |= Note.TRAINED_LOST
    writer.add(ids_T, marked_T, place, notes, label_ids_T=labels_T)


def _write_seq2seq(writer: StoreWriter, work: _Work, place: Place, read_T: TokenIds, written_T: TokenIds) -> None:
    limit, policy, notes = work.facts["max_length"], work.facts["on_long_rows"], Note(0)
    if max(len(read_T), len(written_T)) > limit:
        if policy == "skip":
            work.skip(place)
            return
        if policy == "refuse":
            notes = Note.TOO_LONG
        else:
            notes = Note.CUT | (Note.TRAINED_LOST if len(written_T) > limit else Note(0))
            read_T, written_T = _cut(read_T, limit), _cut(written_T, limit)
    trained_T = np.arange(len(read_T) + len(written_T)) >= len(read_T)
    writer.add(np.concatenate([read_T, written_T]), trained_T, place, notes)


def _cut(ids_T: TokenIds, limit: int) -> TokenIds:
    """The beginning, with the token that ends the text."""
    return ids_T if len(ids_T) <= limit else np.concatenate([ids_T[: limit - 1], ids_T[-1:]])
