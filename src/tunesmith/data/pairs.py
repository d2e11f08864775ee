"""Answers that people preferred or rated as tokens on disk: two rows for a pair, the chosen one first, else one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.data.render import Note, Rendered, RenderedText, render_conversation, render_texts
from tunesmith.data.store import StoreWriter, TokenStore, new_store, open_token_store
from tunesmith.data.tally import OnBadRows, OnLongRows, Tally, require_bounds
from tunesmith.data.template import chat_template, require_fast
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import Example, Place, PreferencePair
from tunesmith.tasks import PreparedTask
from tunesmith.tasks.preference import Answer, answers_of

_EXAMPLES_AT_ONCE = 128

_Item = tuple[Place, list[Answer], list[RenderedText]]


def tokenize_pairs(
    examples: Iterable[tuple[Place, Example]],
    task: PreparedTask,  # noqa: ARG001 - the rows say themselves what they are
    tokenizer: Any,
    folder: Path,
    *,
    max_length: int,
    on_long_rows: OnLongRows = "refuse",
    on_bad_rows: OnBadRows = "refuse",
    on_progress: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> TokenStore:
    """Write the answers of each example as the rows of one item, each behind the same prompt.

    Only the last answer of a row trains. A chosen or wanted answer is of kind 1, any other of kind 0. Where one answer
    of a pair is too long, the pair as a whole is handled as asked: left out, or both are cut at the limit.

    Args:
        examples: Pairs, or rated answers, with their places in order; not both.
        task: As in :func:`tunesmith.data.tokenize.tokenize_examples`, which has all other arguments and errors too.
        tokenizer: A fast tokenizer with a chat template.
        folder: The store's folder; must not exist.
        max_length: Most tokens of a row.
        on_long_rows: What happens to longer ones.
        on_bad_rows: What happens to rows that the template refuses.
        on_progress: Called now and then with the number of examples done.
        limit: Take only so many examples.

    Raises:
        SupervisionError: The template refuses rows, or what answers are made of is no pair nor a rated answer.
        ModelError: The tokenizer is none of those.
        UsageError: ``data.max_length`` or ``data.on_long_rows``.
    """
    require_bounds(max_length, on_long_rows)
    require_fast(tokenizer)
    work = _Work(tokenizer, max_length, on_long_rows, on_bad_rows)
    with new_store(folder, work.facts) as writer:
        left = islice(examples, limit)
        while batch := list(islice(left, _EXAMPLES_AT_ONCE)):
            items = [item for place, example in batch if (item := work.rendered(place, example)) is not None]
            rows = iter(render_texts(tokenizer, [text for _, _, texts in items for text in texts]))
            for place, answers, texts in items:
                work.write(writer, place, answers, [next(rows) for _ in texts])
            if on_progress is not None:
                on_progress(work.facts["examples"])
        work.tally.raise_refused("rendered")
    return open_token_store(folder)


class _Work:
    """One pass over examples: what it was asked for and what it counted."""

    def __init__(self, tokenizer: Any, max_length: int, on_long_rows: OnLongRows, on_bad_rows: OnBadRows) -> None:
        self.tally = Tally(max_length, on_long_rows, on_bad_rows, rows_per_item=1)
        self.facts = self.tally.facts
        self._template = chat_template(tokenizer)

    def rendered(self, place: Place, example: Example) -> _Item | None:
        self.facts["examples"] += 1
        if isinstance(example, PreferencePair):
            self.facts["rows_per_item"] = 2
        answers = answers_of(example)
        try:
            return place, answers, [render_conversation(self._template, answer.conversation) for answer in answers]
        except SupervisionError as error:
            self.tally.refuse(place, error)
            return None

    def write(self, writer: StoreWriter, place: Place, answers: list[Answer], rows: list[Rendered]) -> None:
        limit, policy = self.facts["max_length"], self.facts["on_long_rows"]
        if policy == "skip" and any(len(row.token_ids_T) > limit for row in rows):
            self.tally.skip(place)
            return
        for answer, row in zip(answers, rows, strict=True):
            ids_T, trained_T, notes = row.token_ids_T, row.trained_T, row.notes
            if len(ids_T) > limit and policy == "refuse":
                notes |= Note.TOO_LONG
            elif len(ids_T) > limit:
                notes |= Note.CUT | (Note.TRAINED_LOST if trained_T[limit:].any() else Note(0))
                ids_T, trained_T = ids_T[:limit], trained_T[:limit]
            writer.add(ids_T, trained_T, place, notes, kind=answer.kind)
