"""The named checks of an audit. Each says of all rows, or of a fixed sample of them, whether the supervision is right.

Checks of all rows read the stored tokens block by block. Checks of a sample take the original rows once more, so that
what is stored is compared with what the data says and what the tokenizer's own template makes of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.render import Note, shown_tools
from tunesmith.data.store import TokenStore
from tunesmith.data.template import ChatTemplate
from tunesmith.formats.examples import Conversation, Document, Message

FIRST_ROWS = 10
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RowProblem:
    """One row that fails a check."""

    place: str
    message: str


@dataclass(frozen=True)
class Check:
    """One named check: ``count`` rows fail it, of which ``problems`` names the first."""

    name: str
    detail: str
    hint: str
    count: int
    problems: tuple[RowProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether no row fails."""
        return not self.count

    def to_json(self) -> dict[str, Any]:
        """As in audit.json."""
        problems = [{"place": problem.place, "message": problem.message} for problem in self.problems]
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "problems": problems}


@dataclass(frozen=True)
class SampledRow:
    """A row as stored, and what the data says it should hold; ``item`` is None where the row was not found again."""

    place: str
    token_ids_T: NDArray[np.int64]
    trained_T: NDArray[np.bool_]
    cut: bool
    item: Conversation | Document | None


def make_check(name: str, problems: Iterable[RowProblem], *, rows: str, good: str, bad: str, hint: str) -> Check:
    """A check from all rows that fail; only the first are kept."""
    kept: list[RowProblem] = []
    count = 0
    for problem in problems:
        count += 1
        if len(kept) < FIRST_ROWS:
            kept.append(problem)
    detail = f"{count} of {rows} {bad}" if count else f"{rows}: {good}"
    return Check(name, detail, hint, count, tuple(kept))


def every_row_trains(stores: Sequence[TokenStore]) -> Check:
    """Every row has a token that trains."""

    def problems() -> Iterator[RowProblem]:
        for store in stores:
            if not len(store):
                yield RowProblem("all rows", "no row is left")
            for row in np.flatnonzero(store.trained_counts_B == 0):
                yield RowProblem(str(store.place(int(row))), "no token trains")

    return make_check(
        "every_row_trains",
        problems(),
        rows=_rows(stores),
        good="each has tokens that train",
        bad="have no token that trains",
        hint="give an answer weight 1, remove the rows, or raise train.max_length where they were cut",
    )


def everything_trains(stores: Sequence[TokenStore]) -> Check:
    """Every token trains but the first one, before which nothing comes: objectives that learn whole texts."""

    def problems() -> Iterator[RowProblem]:
        for store in stores:
            for row in np.flatnonzero(store.trained_counts_B != np.maximum(store.lengths_B - 1, 0)):
                yield RowProblem(
                    str(store.place(int(row))), f"{store.trained_counts_B[row]} of {store.lengths_B[row]} tokens train"
                )

    return make_check(
        "everything_trains",
        problems(),
        rows=_rows(stores),
        good="each token behind the first one trains",
        bad="have tokens that do not train",
        hint="the data or the tokenizer changed; remove the stored tokens and start again",
    )


def nothing_lost_to_truncation(stores: Sequence[TokenStore]) -> Check:
    """No row is longer than the limit, unless cutting it was asked for."""
    cut = sum(len(store.rows_with(Note.TRAINED_LOST)) for store in stores)
    good = f"{cut} lose tokens that train, as asked by on_long_rows" if cut else "none loses a token that trains"
    return make_check(
        "nothing_lost_to_truncation",
        (
            RowProblem(str(store.place(int(row))), f"{store.lengths_B[row]} tokens, limit {store.facts['max_length']}")
            for store in stores
            for row in store.rows_with(Note.TOO_LONG)
        ),
        rows=_rows(stores),
        good=good,
        bad="are longer than the limit",
        hint="shorten the rows, set data.on_long_rows to skip or truncate, or raise train.max_length where the model's "
        "context is longer",
    )


def tools_rendered(stores: Sequence[TokenStore], template: ChatTemplate | None) -> Check:
    """Tools and calls of tools stand in the rendered text, in the template's form or in the declared one."""
    as_text = sum(len(store.rows_with(Note.TOOLS_AS_TEXT)) for store in stores)
    why = template.why_no_tools if template is not None else ""
    written = f"; in {as_text} as plain JSON, since {why}" if as_text else ""
    return _noted(
        "tools_rendered",
        stores,
        Note.TOOLS_LEFT_OUT,
        good=f"tools and their calls are in the text of every row that has them{written}",
        bad="have tools or calls that the model's chat template leaves out",
        hint="take a model whose template knows tools, or remove the tools from the rows",
    )


def messages_rendered(stores: Sequence[TokenStore]) -> Check:
    """The text of every system and user message stands in the rendered text."""
    return _noted(
        "messages_rendered",
        stores,
        Note.MESSAGE_LEFT_OUT,
        good="every message is in the text",
        bad="have a message that the model's chat template leaves out",
        hint="change the roles of the messages, or take another model",
    )


def end_of_turn_trained(
    stores: Sequence[TokenStore], ends_of_turns: Collection[int], ends_of_documents: Collection[int]
) -> Check:
    """Every trained stretch ends with a token that ends a turn, so that the model learns to stop."""
    return make_check(
        "end_of_turn_trained",
        (
            RowProblem(str(store.place(row)), "the trained text does not end with an end-of-turn token")
            for store in stores
            for row in _rows_without_end(store, ends_of_turns, ends_of_documents)
        ),
        rows=_rows(stores),
        good="every trained stretch ends with the end-of-turn token",
        bad="have a trained stretch without an end-of-turn token",
        hint="the model's chat template writes no end-of-turn token behind answers; take a model whose template does",
    )


def only_answers_train(
    stores: Sequence[TokenStore], sample: Sequence[SampledRow], template: ChatTemplate | None
) -> Check:
    """The trained tokens, decoded, are the trained assistant turns and nothing else."""

    def problems() -> Iterator[RowProblem]:
        for store in stores:
            for row in store.rows_with(Note.ANSWER_LEFT_OUT):
                yield RowProblem(str(store.place(int(row))), "an answer is not in the rendered text")
        for row in sample:
            message = _wrongly_trained(row, template)
            if message is not None:
                yield RowProblem(row.place, message)

    return make_check(
        "only_answers_train",
        problems(),
        rows=f"{len(sample)} sampled rows",
        good="what trains is the assistant's turns and nothing else",
        bad="train something else than their answers",
        hint="the model's chat template does not render answers as they are; take another model",
    )


def template_matches(sample: Sequence[SampledRow], template: ChatTemplate | None, tokenizer: Any) -> Check:
    """The stored tokens are those of the tokenizer's own template."""
    return make_check(
        "template_matches",
        (
            RowProblem(row.place, message)
            for row in sample
            if (message := _differs_from_template(row, template, tokenizer)) is not None
        ),
        rows=f"{len(sample)} sampled rows",
        good="the tokens are those of the tokenizer's own template",
        bad="differ from the tokenizer's own template",
        hint="the data, the tokenizer or its template changed; remove the stored tokens and start again",
    )


def _rows(stores: Sequence[TokenStore]) -> str:
    return f"{sum(map(len, stores))} rows"


def _noted(name: str, stores: Sequence[TokenStore], note: Note, *, good: str, bad: str, hint: str) -> Check:
    problems = (RowProblem(str(store.place(int(row))), bad) for store in stores for row in store.rows_with(note))
    return make_check(name, problems, rows=_rows(stores), good=good, bad=bad, hint=hint)


def _rows_without_end(store: TokenStore, turns: Collection[int], documents: Collection[int]) -> Iterator[int]:
    """Rows with a trained stretch whose last token ends nothing; a row that was cut ends where it was cut."""
    starts, notes = store.arrays["row_starts"], store.notes_B
    for first in range(0, len(store), BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, len(store))
        begin, end = int(starts[first]), int(starts[last])
        ids = np.asarray(store.arrays["token_ids"][begin:end])
        trained = np.asarray(store.arrays["trained"][begin:end])
        row_ends = np.zeros(end - begin + 1, dtype=bool)
        row_ends[np.asarray(starts[first + 1 : last + 1]) - begin] = True
        # A stretch ends where the next token does not train, or where the row ends.
        at = np.flatnonzero(trained & (row_ends[1:] | ~np.append(trained[1:], False)))
        rows = first + np.searchsorted(np.asarray(starts[first : last + 1]) - begin, at, side="right") - 1
        is_document = (notes[rows] & int(Note.DOCUMENT)) != 0
        right = np.where(is_document, np.isin(ids[at], list(documents)), np.isin(ids[at], list(turns)))
        right |= row_ends[1:][at] & ((notes[rows] & int(Note.CUT | Note.GOES_ON)) != 0)
        yield from (int(row) for row in np.unique(rows[~right]))


def _wrongly_trained(row: SampledRow, template: ChatTemplate | None) -> str | None:
    if row.item is None:
        return None
    if isinstance(row.item, Document):
        return None if row.trained_T[1:].all() else "a token of the text does not train"
    assert template is not None
    answers = [message for message in row.item.messages if message.role == "assistant" and message.trained]
    stretches = trained_stretches(row.trained_T)
    if len(stretches) != len(answers) and not row.cut:
        return f"{len(stretches)} stretches train, but {len(answers)} answers should"
    for number, ((start, end), answer) in enumerate(zip(stretches, answers, strict=False), start=1):
        text = template.tokenizer.decode(
            row.token_ids_T[start:end].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if row.cut and end == len(row.trained_T):
            continue
        if not (
            _is_answer(text, answer, template) or _is_answer(text, _as_known(answer, template.tokenizer), template)
        ):
            return f"answer {number} should train, but what trains reads {text[:60]!r}"
    return None


def _is_answer(text: str, answer: Message, template: ChatTemplate) -> bool:
    """Whether a trained text is an answer with nothing around it but tokens of the template."""
    found, content = _bare(text), _bare(answer.content)
    thinking, mark, spoken = content.rpartition("</think>")
    if mark and content not in found and thinking not in found:
        # Templates of reasoning models keep the thoughts of the last turn only.
        content = spoken
    if content not in found:
        return False
    if answer.tool_calls:
        return all(_bare(call["function"]["name"]) in found for call in answer.tool_calls)
    before, _, after = found.rpartition(content) if content else ("", "", found)
    around = f"{before}\n{after}"
    return not (template.token_texts.sub("", around) if template.token_texts else around).strip()


def rows_with_lost_characters(sample: Sequence[SampledRow], tokenizer: Any) -> list[str]:
    """Places of sampled rows with characters that the tokenizer does not know and gives back as something else."""
    places: list[str] = []
    for row in sample:
        if row.item is not None:
            messages = [Message("", row.item.text)] if isinstance(row.item, Document) else row.item.messages
            if any(_bare(_as_known(message, tokenizer).content) != _bare(message.content) for message in messages):
                places.append(row.place)
    return places


def _as_known(message: Message, tokenizer: Any) -> Message:
    """A message with its content as it is after encoding and decoding."""
    ids = tokenizer(message.content, add_special_tokens=False, verbose=False)["input_ids"]
    known = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return replace(message, content=str(known))


def _bare(text: str) -> str:
    """A text without white space and in one Unicode form, both of which tokenizers and templates may change."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def trained_stretches(trained_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end (excluded) of each stretch of tokens that train."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], trained_T, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _differs_from_template(row: SampledRow, template: ChatTemplate | None, tokenizer: Any) -> str | None:
    if row.item is None:
        return "the row was not found in the data again"
    if isinstance(row.item, Document):
        expected = list(tokenizer(row.item.text, verbose=False)["input_ids"])
        if tokenizer.eos_token_id is not None and expected[-1:] != [tokenizer.eos_token_id]:
            expected.append(tokenizer.eos_token_id)
    else:
        assert template is not None
        item = shown_tools(template, row.item)
        expected = _own_tokens(tokenizer, template.messages(item.messages), item.tools)
    if row.cut:
        expected = expected[: len(row.token_ids_T)]
    found = row.token_ids_T.tolist()
    if found == expected:
        return None
    at = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return f"{len(found)} tokens, the template makes {len(expected)}"
    return f"token {at + 1} is {found[at]}, the template makes {expected[at]}"


def _own_tokens(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
    ids = tokenizer.apply_chat_template(list(messages), tools=list(tools) or None, tokenize=True, return_dict=False)
    return [int(token) for token in ids]
