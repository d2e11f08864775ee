"""Examples to tokens on disk, in constant memory but for a few numbers a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.render import Note, Rendered, RenderedText, render_conversation, render_texts
from tunesmith.data.store import StoreWriter, TokenStore, new_store, open_token_store
from tunesmith.data.tally import OnBadRows, OnLongRows, Tally, require_bounds
from tunesmith.data.template import ChatTemplate, chat_template, require_fast
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import Conversation, Document, Example, Place
from tunesmith.tasks import PreparedTask

# Large enough that what rows share is encoded rarely, small enough that a batch of long rows fits in memory.
BATCH_ROWS = 256
BATCH_CHARACTERS = 2_000_000


def tokenize_examples(
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
    everything: bool = False,
) -> TokenStore:
    """Render and encode examples and write them as a store.

    A row longer than ``max_length`` tokens is handled as asked: ``refuse`` keeps it whole with a note, and the audit
    refuses it, naming every such row; ``skip`` leaves it out and counts it; ``truncate`` cuts its end. A document under
    ``refuse`` is laid out as several rows instead, each beginning with the last token of the one before, so that every
    token is learned once and none is lost.

    Args:
        examples: Rows with their places, in order.
        task: What turns an example into a conversation or document.
        tokenizer: A fast tokenizer of Transformers.
        folder: The store's folder; must not exist.
        max_length: Most tokens of a row.
        on_long_rows: See above.
        on_bad_rows: What happens to rows that the template refuses.
        on_progress: Called now and then with the number of examples done.
        limit: Take only so many examples.
        everything: Train all tokens but the first, whoever wrote them.

    Raises:
        SupervisionError: The template refuses rows (``supervision.rows``: all are counted, the first named).
        ModelError: As :func:`tunesmith.data.template.chat_template`.
        OutputError: The folder exists or cannot be written.
        UsageError: ``data.max_length`` or ``data.on_long_rows``.
    """
    require_bounds(max_length, on_long_rows)
    require_fast(tokenizer)
    work = _Work(task, tokenizer, max_length, on_long_rows, on_bad_rows)
    with new_store(folder, work.facts) as writer:
        for batch in _batches(work.texts(islice(examples, limit))):
            for (place, _), row in zip(batch, render_texts(tokenizer, [text for _, text in batch]), strict=True):
                work.write(writer, place, _all_trained(row) if everything else row)
            if on_progress is not None:
                on_progress(work.facts["examples"])
        work.tally.raise_refused("rendered")
    return open_token_store(folder)


def tokenize_whole(
    examples: Iterable[tuple[Place, Example]], task: PreparedTask, tokenizer: Any, folder: Path, **options: Any
) -> TokenStore:
    """As :func:`tokenize_examples`, for objectives that learn all of a text: every token but the first trains."""
    return tokenize_examples(examples, task, tokenizer, folder, everything=True, **options)


class _Work:
    """One pass over examples: what it was asked for and what it counted."""

    def __init__(
        self,
        task: PreparedTask,
        tokenizer: Any,
        max_length: int,
        on_long_rows: OnLongRows,
        on_bad_rows: OnBadRows,
    ) -> None:
        self.tally = Tally(max_length, on_long_rows, on_bad_rows)
        self.facts = self.tally.facts
        self._task = task
        self._tokenizer = tokenizer
        self._template: ChatTemplate | None = None

    def texts(self, examples: Iterable[tuple[Place, Example]]) -> Iterator[tuple[Place, RenderedText]]:
        for place, example in examples:
            self.facts["examples"] += 1
            item = self._task.training(example)
            if isinstance(item, Document):
                yield place, RenderedText(item.text, (), Note.DOCUMENT)
                continue
            text = self._conversation(place, item)
            if text is not None:
                yield place, text

    def _conversation(self, place: Place, conversation: Conversation) -> RenderedText | None:
        if self._template is None:
            self._template = chat_template(self._tokenizer)
        try:
            return render_conversation(self._template, conversation)
        except SupervisionError as error:
            self.tally.refuse(place, error)
            return None

    def write(self, writer: StoreWriter, place: Place, row: Rendered) -> None:
        limit, policy = self.facts["max_length"], self.facts["on_long_rows"]
        ids_T, trained_T = row.token_ids_T, row.trained_T
        if len(ids_T) <= limit:
            writer.add(ids_T, trained_T, place, row.notes)
        elif policy == "skip":
            self.tally.skip(place)
        elif policy == "truncate":
            lost = Note.TRAINED_LOST if trained_T[limit:].any() else Note(0)
            writer.add(ids_T[:limit], trained_T[:limit], place, row.notes | Note.CUT | lost)
        elif row.notes & Note.DOCUMENT:
            self.facts["split_documents"] += 1
            # The first token of a piece is never trained, so each piece begins with the last of the one before.
            for start in range(0, len(ids_T) - 1, limit - 1):
                piece_T = ids_T[start : start + limit]
                trained_piece_T = np.arange(len(piece_T)) > 0
                goes_on = Note.GOES_ON if start + limit < len(ids_T) else Note(0)
                writer.add(piece_T, trained_piece_T, place, row.notes | goes_on)
        else:
            writer.add(ids_T, trained_T, place, row.notes | Note.TOO_LONG)


def _all_trained(row: Rendered) -> Rendered:
    return replace(row, trained_T=np.arange(len(row.token_ids_T)) > 0)


def _batches(texts: Iterator[tuple[Place, RenderedText]]) -> Iterator[list[tuple[Place, RenderedText]]]:
    batch: list[tuple[Place, RenderedText]] = []
    characters = 0
    for place, text in texts:
        batch.append((place, text))
        characters += len(text.text)
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def shared_prefix_length(rows: TokenStore) -> int:
    """Untrained tokens that every row begins with; 0 for an empty set."""
    if not len(rows):
        return 0
    first = rows[0]
    shared = _untrained(first.token_ids_T, first.trained_T)
    for index in range(1, len(rows)):
        row = rows[index]
        mine = _untrained(row.token_ids_T, row.trained_T)
        length = min(len(shared), len(mine))
        differs = np.flatnonzero(shared[:length] != mine[:length])
        shared = shared[: int(differs[0]) if len(differs) else length]
        if not len(shared):
            return 0
    return len(shared)


def _untrained(token_ids_T: np.ndarray[Any, Any], trained_T: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    trained = np.flatnonzero(trained_T)
    return token_ids_T[: int(trained[0]) if len(trained) else len(token_ids_T)]
