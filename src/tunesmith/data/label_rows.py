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
from tunesmith.data.tally import OnBadRows, OnLongRows, Tally, require_bounds
from tunesmith.data.template import require_fast
from tunesmith.data.tokenize import BATCH_ROWS
from tunesmith.data.types import TokenIds
from tunesmith.errors import SupervisionError
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
    on_bad_rows: OnBadRows = "refuse",
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
        on_bad_rows: What happens with rows whose labels cannot be put on tokens.
        on_progress: Told of the examples done.
        limit: Take only so many examples.

    Raises:
        SupervisionError: Rows whose labels cannot be put on tokens (``supervision.rows``), the first named.
        OutputError: The folder exists or cannot be written.
        UsageError: ``data.max_length`` or ``data.on_long_rows``.
    """
    assert objective in HEADS
    reader = make_reader(objective, task.labels, tokenizer, model_kind)
    require_bounds(max_length, on_long_rows)
    tally = Tally(
        max_length,
        on_long_rows,
        on_bad_rows,
        objective=objective,
        labels=list(reader.labels),
        model_kind=model_kind,
    )
    require_fast(tokenizer)
    with new_store(folder, tally.facts, labelled=True) as writer:
        for place, example in _counted(tally, islice(examples, limit), on_progress):
            try:
                row = reader.encode(example)
            except SupervisionError as error:
                tally.refuse(place, error)
                continue
            _write_labelled(writer, tally, place, row, model_kind)
        tally.raise_refused("labelled")
    return open_token_store(folder)


def tokenize_seq2seq(
    examples: Iterable[tuple[Place, Example]],
    task: PreparedTask,
    tokenizer: Any,
    folder: Path,
    *,
    max_length: int,
    on_long_rows: OnLongRows = "refuse",
    on_bad_rows: OnBadRows = "refuse",
    on_progress: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> TokenStore:
    """Write what is read and behind it what is written, which alone trains, for models with encoder and decoder.

    Both are the tokenizer's own tokens with its special ones; ``max_length`` bounds each of the two. Arguments and
    errors are those of :func:`tokenize_labelled`.
    """
    require_bounds(max_length, on_long_rows)
    tally = Tally(max_length, on_long_rows, on_bad_rows, objective="seq2seq")
    require_fast(tokenizer)
    with new_store(folder, tally.facts) as writer:
        for place, example in _counted(tally, islice(examples, limit), on_progress):
            question = task.evaluation(example)
            if question is None:
                tally.refuse(place, SupervisionError("the row has no answer to learn", code="supervision.no_answer"))
                continue
            read_T = source_tokens(tokenizer, question.messages)
            written_T = _ids(tokenizer(text_target=question.shown_reference, verbose=False))
            _write_seq2seq(writer, tally, place, read_T, written_T)
        tally.raise_refused("labelled")
    return open_token_store(folder)


def source_text(messages: Iterable[Message]) -> str:
    """What an encoder reads: the turns before the answer behind one another, with an empty line between them."""
    return "\n\n".join(message.content for message in messages)


def source_tokens(tokenizer: Any, messages: Iterable[Message]) -> TokenIds:
    """:func:`source_text` as tokens."""
    return _ids(tokenizer(source_text(messages), verbose=False))


def _ids(encoding: Any) -> TokenIds:
    return np.asarray(encoding["input_ids"], dtype=np.int64)


def _counted(
    tally: Tally, examples: Iterable[tuple[Place, Example]], on_progress: Callable[[int], None] | None
) -> Iterable[tuple[Place, Example]]:
    for place, example in examples:
        tally.facts["examples"] += 1
        yield place, example
        if on_progress is not None and tally.facts["examples"] % BATCH_ROWS == 0:
            on_progress(tally.facts["examples"])


def _write_labelled(writer: StoreWriter, tally: Tally, place: Place, row: LabelledRow, model_kind: str) -> None:
    ids_T, marked_T, labels_T, notes = row.token_ids_T, row.marked_T, row.label_ids_T, Note(0)
    limit, policy = tally.facts["max_length"], tally.facts["on_long_rows"]
    if len(ids_T) > limit:
        if policy == "skip":
            tally.skip(place)
            return
        if policy == "refuse":
            notes = Note.TOO_LONG
        else:
            kept = [*range(limit - row.closing), *range(len(ids_T) - row.closing, len(ids_T))]
            lost = labels_T[marked_T].sum() > labels_T[kept][marked_T[kept]].sum()
            notes = Note.CUT
            if tally.facts["objective"] == "question_answering" and lost:
                tally.skip(place)
                return
            ids_T, marked_T, labels_T = ids_T[kept], marked_T[kept], labels_T[kept]
            if tally.facts["objective"] == "sequence_classification" and model_kind == "causal":
                marked_T[-1], labels_T[-1] = True, row.label_ids_T[-1]
            elif tally.facts["objective"] == "token_classification" and lost:
                notes |= Note.TRAINED_LOST
    writer.add(ids_T, marked_T, place, notes, label_ids_T=labels_T)


def _write_seq2seq(writer: StoreWriter, tally: Tally, place: Place, read_T: TokenIds, written_T: TokenIds) -> None:
    limit, policy, notes = tally.facts["max_length"], tally.facts["on_long_rows"], Note(0)
    if max(len(read_T), len(written_T)) > limit:
        if policy == "skip":
            tally.skip(place)
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
