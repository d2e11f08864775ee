"""Texts through a model with a head, one after the other, and what its scores say in words.

Shape suffixes: L labels of a text, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.catalog.heads import Head
from tunesmith.data.labelled import AnswerReader, LabelledRow, LabelReader, SequenceReader, WordReader
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.data.words import entity_words
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import EntityText, Example, LabelledText, QuestionAnswer
from tunesmith.inference.failures import RefusedError
from tunesmith.models.heads import head_logits
from tunesmith.wire.classify import Classified, Entity, QuestionInput


class Classifier:
    """Answers requests in turn; callers may come from several threads.

    Args:
        model: A model with a head, with or without an adapter.
        tokenizer: Its fast tokenizer.
        head: What the head does, and its labels.
        both_ways: Whether tokens see what comes behind them.
        context: Most tokens of a text; None for no limit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: Head,
        *,
        both_ways: bool,
        context: int | None,
    ) -> None:
        self._model = model
        self._reader = _reader(head, tokenizer, both_ways)
        self._context = context
        self._turn = threading.Lock()

    def classify(self, inputs: Sequence[str | QuestionInput]) -> tuple[list[Classified], int]:
        """What the head says of each input, and how many tokens all of them have.

        Raises:
            RefusedError: An input is empty, too long, or of a form that this head does not read; nothing is computed.
        """
        with self._turn, torch.inference_mode():
            rows = [self._row(at, one) for at, one in enumerate(inputs)]
            found = [self._result(at, row) for at, row in enumerate(rows)]
        return found, sum(len(row.token_ids_T) for row in rows)

    def _row(self, at: int, one: str | QuestionInput) -> LabelledRow:
        param = f"input.{at}"
        try:
            row = self._reader.encode(self._example(one, param))
        except SupervisionError as error:
            raise RefusedError(400, error.message, param=param, code="cannot_classify") from error
        if self._context is not None and len(row.token_ids_T) > self._context:
            raise RefusedError(
                400,
                f"This model's maximum context length is {self._context} tokens. However, this input has "
                f"{len(row.token_ids_T)} tokens. Please reduce its length.",
                param=param,
                code="context_length_exceeded",
            )
        return row

    def _example(self, one: str | QuestionInput, param: str) -> Example:
        """The input as a row whose answer is not known; any label takes the answer's place."""
        asks = isinstance(self._reader, AnswerReader)
        if asks != isinstance(one, QuestionInput):
            form = "question and context" if asks else "a text"
            raise RefusedError(400, f"this model reads {form} in each input", param=param, code="wrong_input")
        texts = (one,) if isinstance(one, str) else (one.question, one.context)
        if not all(text.strip() for text in texts):
            raise RefusedError(400, "there is nothing to read", param=param, code="empty_input")
        if not isinstance(one, str):
            return QuestionAnswer(one.question, (one.context.strip(),), one.context)
        if isinstance(self._reader, WordReader):
            return EntityText(one, ())
        return LabelledText(one, self._reader.labels[0])

    def _result(self, at: int, row: LabelledRow) -> Classified:
        scores_L_C = self._scores(row)
        labels_L = self._reader.predict(scores_L_C).tolist()
        if isinstance(self._reader, SequenceReader):
            chances_C = _softmax(scores_L_C[0])
            named = {label: float(chance) for label, chance in zip(self._reader.labels, chances_C, strict=True)}
            label = self._reader.labels[labels_L[0]]
            return Classified(index=at, label=label, score=named[label], scores=named)
        if isinstance(self._reader, WordReader):
            tags = [self._reader.labels[label] for label in labels_L]
            return Classified(index=at, entities=_entities(row, tags, scores_L_C))
        marks_L = np.asarray(labels_L)
        ends = (int(np.flatnonzero(marks_L & bit)[0]) for bit in (1, 2))
        score = np.prod([_softmax(scores_L_C[:, side])[place] for side, place in enumerate(ends)])
        return Classified(index=at, answer=self._reader.answer(row, labels_L), score=float(score))

    def _scores(self, row: LabelledRow) -> NDArray[np.float64]:
        if not row.marked_T.any():
            # A text of signs that the tokenizer drops has no word to tag.
            return np.zeros((0, len(self._reader.labels)))
        tokens = TokenRow(row.token_ids_T, row.marked_T, "request", row.label_ids_T)
        (pack,) = lay_out([(0, tokens)], tokens_per_micro_batch=len(row.token_ids_T), share_prefix=False)
        scores_L_C: NDArray[np.float64] = head_logits(self._model, pack).double().cpu().numpy()
        return scores_L_C


def _reader(head: Head, tokenizer: Any, both_ways: bool) -> LabelReader:
    if head.kind == "sequence_classification":
        return SequenceReader(head.labels, tokenizer, both_ways)
    if head.kind == "token_classification":
        return WordReader(head.labels, tokenizer, both_ways)
    return AnswerReader(tokenizer, both_ways, head.labels)


def _entities(row: LabelledRow, tags: Sequence[str], scores_L_C: NDArray[np.float64]) -> list[Entity]:
    chances_L = [float(_softmax(scores_C).max()) for scores_C in scores_L_C]
    return [
        Entity(
            text=row.text[row.places[first][0] : row.places[last][1]],
            label=label,
            start=row.places[first][0],
            end=row.places[last][1],
            score=min(chances_L[first : last + 1]),
        )
        for first, last, label in entity_words(tags)
    ]


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max())
    chances: NDArray[np.float64] = powers / powers.sum()
    return chances
