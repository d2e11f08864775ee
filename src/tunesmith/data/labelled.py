"""Rows for heads: texts as tokens with labels at their own places, and labels back to answers in words.

A head reads plain text with the special tokens that the model's own tokenizer puts around it. That holds for models
that write, too: a chat template would put turns around a text that nobody answers.

Where labels stand depends on what a token knows of its row. Models that read both ways have the label of a row at the
first token and that of a word at its first token; models that read on have both at the last one, which has seen all.

Shape suffixes: T tokens of a row, L labels of a row, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.types import Flags, TokenIds
from tunesmith.data.words import OUTSIDE, entities_of, tag_labels, tagged_words
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import EntityText, Example, LabelledText, QuestionAnswer

STARTS, ENDS = 1, 2
# The longest answer that is marked, in tokens.
MOST_ANSWER_TOKENS = 64

Places = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LabelledRow:
    """One row: ``label_ids_T`` are labels where ``marked_T``. ``places`` are characters of ``text`` for each label.

    The last ``closing`` tokens are special ones, which stay where a row is cut.
    """

    token_ids_T: TokenIds
    marked_T: Flags
    label_ids_T: TokenIds
    text: str
    places: Places
    closing: int


class LabelReader(Protocol):
    """How the examples of an objective become labelled rows, and what scores of a head say in words."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the head's classes."""

    def encode(self, example: Example) -> LabelledRow:
        """The row of an example.

        Raises:
            SupervisionError: The example has no such label, or one that cannot be put on its tokens.
        """

    def predict(self, scores_L_C: NDArray[Any]) -> TokenIds:
        """The most likely labels of a row, one for each of its marked tokens."""

    def answer(self, row: LabelledRow, label_ids_L: Sequence[int]) -> str:
        """Labels of a row in the words that metrics compare."""

    def name(self, label_id: int) -> str:
        """A label in words, empty where it says that nothing is here."""


def make_reader(objective: str, labels: Sequence[str], tokenizer: Any, model_kind: str) -> LabelReader:
    """The reader of an objective with a head.

    Args:
        objective: One of :data:`tunesmith.recipe.objectives.HEADS`.
        labels: Labels of the task, in their order.
        tokenizer: A fast tokenizer.
        model_kind: ``encoder`` or ``causal``.
    """
    both_ways = model_kind == "encoder"
    if objective == "sequence_classification":
        return SequenceReader(tuple(labels), tokenizer, both_ways)
    if objective == "token_classification":
        return WordReader(tag_labels(labels), tokenizer, both_ways)
    return AnswerReader(tokenizer, both_ways, tuple(labels))


@dataclass(frozen=True)
class SequenceReader:
    """One label a row."""

    labels: tuple[str, ...]
    tokenizer: Any
    both_ways: bool

    def encode(self, example: Example) -> LabelledRow:
        """As in :class:`LabelReader`."""
        assert isinstance(example, LabelledText)
        label = _number_of(self.labels, example.label)
        row = _blank(self.tokenizer, example.text)
        at = 0 if self.both_ways else len(row.token_ids_T) - 1
        row.marked_T[at], row.label_ids_T[at] = True, label
        return replace(row, places=((0, len(example.text)),))

    def predict(self, scores_L_C: NDArray[Any]) -> TokenIds:
        """As in :class:`LabelReader`."""
        return np.asarray(scores_L_C.argmax(axis=1), dtype=np.int64)

    def answer(self, row: LabelledRow, label_ids_L: Sequence[int]) -> str:  # noqa: ARG002 - a label is its own words
        """The label."""
        return self.labels[label_ids_L[0]]

    def name(self, label_id: int) -> str:
        """As in :class:`LabelReader`."""
        return self.labels[label_id]


@dataclass(frozen=True)
class WordReader:
    """One tag a word."""

    labels: tuple[str, ...]
    tokenizer: Any
    both_ways: bool

    def encode(self, example: Example) -> LabelledRow:
        """As in :class:`LabelReader`."""
        assert isinstance(example, EntityText)
        words = tagged_words(example)
        row, offsets = _blank(self.tokenizer, example.text), _offsets(self.tokenizer, example.text)
        tokens = _tokens_of_words([(word.start, word.end) for word in words], offsets)
        places = []
        for word, own in zip(words, tokens, strict=True):
            if not own:
                _require_unmarked(word.tag, example.text[word.start : word.end])
                continue
            at = own[0] if self.both_ways else own[-1]
            row.marked_T[at], row.label_ids_T[at] = True, _number_of(self.labels, word.tag)
            places.append((word.start, word.end))
        return replace(row, places=tuple(places))

    def predict(self, scores_L_C: NDArray[Any]) -> TokenIds:
        """As in :class:`LabelReader`."""
        return np.asarray(scores_L_C.argmax(axis=1), dtype=np.int64)

    def answer(self, row: LabelledRow, label_ids_L: Sequence[int]) -> str:
        """The entities as a JSON list, as models that write are asked for them."""
        tags = [self.labels[label] for label in label_ids_L]
        return json.dumps(entities_of(row.text, row.places[: len(tags)], tags), ensure_ascii=False)

    def name(self, label_id: int) -> str:
        """As in :class:`LabelReader`."""
        return "" if self.labels[label_id] == OUTSIDE else self.labels[label_id]


@dataclass(frozen=True)
class AnswerReader:
    """Start and end of the answer among the tokens of a text; bits, since one token can be both.

    Where questions may have no answer, the one label is a word that is put behind each text, and the answer is there.
    """

    tokenizer: Any
    both_ways: bool
    labels: tuple[str, ...] = ()

    def encode(self, example: Example) -> LabelledRow:
        """As in :class:`LabelReader`; the answer to learn is the first accepted one that stands in the text.

        It stands where the row says, or at its first occurrence where the row does not say it.
        """
        assert isinstance(example, QuestionAnswer)
        context = example.context
        if context is None:
            raise SupervisionError(
                "the question has no text in which an answer could be marked",
                code="supervision.no_context",
                hint="give a column `context`, or set objective=sft on a model that writes",
            )
        text = "\n\n".join([context, *self.labels])
        row, offsets = self._encoded(example.question, text)
        first, last = self._marks(example, offsets)
        candidates = [at for at, place in enumerate(offsets) if place is not None]
        for at in candidates:
            row.marked_T[at] = True
        row.label_ids_T[candidates[first]] |= STARTS
        row.label_ids_T[candidates[last]] |= ENDS
        return replace(row, text=text, places=tuple(place for place in offsets if place is not None))

    def predict(self, scores_L_C: NDArray[Any]) -> TokenIds:
        """The best start with an end behind it."""
        count = len(scores_L_C)
        pairs = scores_L_C[:, None, 0] + scores_L_C[None, :, 1]
        apart = np.arange(count)[None, :] - np.arange(count)[:, None]
        pairs = np.where((apart >= 0) & (apart < MOST_ANSWER_TOKENS), pairs, -np.inf)
        start, end = np.unravel_index(int(pairs.argmax()), pairs.shape)
        labels_L = np.zeros(count, dtype=np.int64)
        labels_L[start] |= STARTS
        labels_L[end] |= ENDS
        return labels_L

    def answer(self, row: LabelledRow, label_ids_L: Sequence[int]) -> str:
        """The marked stretch of the text."""
        marks = np.asarray(label_ids_L)
        start, end = (int(np.flatnonzero(marks & bit)[0]) for bit in (STARTS, ENDS))
        return row.text[row.places[start][0] : row.places[end][1]].strip()

    def name(self, label_id: int) -> str:
        """As in :class:`LabelReader`."""
        return " and ".join(word for word, bit in (("start", STARTS), ("end", ENDS)) if label_id & bit)

    def _encoded(self, question: str, context: str) -> tuple[LabelledRow, list[tuple[int, int] | None]]:
        """Tokens, and for each token of the text its characters there; None for all others."""
        if self.both_ways:
            row, begin = _blank(self.tokenizer, question, context), 0
            encoding = self.tokenizer(question, context, return_offsets_mapping=True, verbose=False)
            of_text = [number == 1 for number in encoding.sequence_ids(0)]
            offsets = encoding["offset_mapping"]
        else:
            text = f"{question}\n\n{context}"
            begin = len(text) - len(context)
            row, offsets = _blank(self.tokenizer, text), _offsets(self.tokenizer, text)
            of_text = [end > begin for _, end in offsets]
        places = [
            (max(0, start - begin), end - begin) if inside and end > start else None
            for (start, end), inside in zip(offsets, of_text, strict=True)
        ]
        return row, places

    def _marks(self, example: QuestionAnswer, offsets: Sequence[tuple[int, int] | None]) -> tuple[int, int]:
        """Numbers of the candidates at which the answer starts and ends."""
        places = [place for place in offsets if place is not None]
        for begin, length in _where(example, self.labels):
            covered = [
                number
                for number, (start, end) in enumerate(places)
                if begin >= 0 and end > begin and start < begin + length
            ]
            if covered:
                return covered[0], covered[-1]
        raise SupervisionError(
            "no accepted answer stands in the text, or not where the row says",
            code="supervision.answer_not_in_context",
            value=example.answers[0][:80] if example.answers else "no answer",
            hint="correct the row, or set objective=sft on a model that writes",
        )


def _where(example: QuestionAnswer, labels: Sequence[str]) -> list[tuple[int, int]]:
    """Start and length of each accepted answer in the text, -1 for those that do not stand there."""
    context = example.context or ""
    if not example.answers:
        return [(len(context) + len("\n\n"), len(labels[0]))] if labels else []
    starts = example.starts or (None,) * len(example.answers)
    found = []
    for answer, told in zip(example.answers, starts, strict=True):
        words = answer.strip()
        if told is None:
            found.append((context.find(words), len(words)))
        else:
            begin = told + len(answer) - len(answer.lstrip())
            found.append((begin if told >= 0 and context.startswith(words, begin) else -1, len(words)))
    return found


def _number_of(labels: Sequence[str], label: str) -> int:
    if label not in labels:
        known = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
        raise SupervisionError(
            "the label is none of those that are trained",
            code="supervision.label_unseen",
            value=label,
            hint=f"labels are {known}; correct it, or add training rows that have it",
        )
    return labels.index(label)


def _blank(tokenizer: Any, *texts: str) -> LabelledRow:
    encoding = tokenizer(*texts, return_special_tokens_mask=True, verbose=False)
    ids_T = np.asarray(encoding["input_ids"], dtype=np.int64)
    special_T = encoding["special_tokens_mask"]
    closing = next((count for count, one in enumerate(reversed(special_T)) if not one), len(special_T))
    return LabelledRow(ids_T, np.zeros(len(ids_T), dtype=bool), np.zeros_like(ids_T), texts[0], (), closing)


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return found


def _tokens_of_words(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The tokens of each word; a token that reaches into several words is the first one's."""
    tokens: list[list[int]] = [[] for _ in words]
    at = 0
    for number, (start, end) in enumerate(offsets):
        while at < len(words) and words[at][1] <= start:
            at += 1
        if at < len(words) and end > start and end > words[at][0]:
            tokens[at].append(number)
    return tokens


def _require_unmarked(tag: str, word: str) -> None:
    if tag != OUTSIDE:
        raise SupervisionError(
            "a word of an entity has no token of its own, so that it cannot be told from its neighbours",
            code="supervision.tag_without_token",
            value=f"{word}: {tag}",
            hint="correct the row, or learn entities as JSON with objective=sft on a model that writes",
        )
