"""Rows that an export is checked on, taken from a run's held-out data, from a file, or from the bundled samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith.data.types import TokenRow
from tunesmith.errors import DataError
from tunesmith.evaluation.metrics import measure, summarise
from tunesmith.evaluation.questions import ask_plainly
from tunesmith.export.compare_text import MOST_PLACES, TextRows
from tunesmith.export.process import Check
from tunesmith.export.source import Source
from tunesmith.pipeline.finish import judge_of
from tunesmith.pipeline.measure import choose_held_out
from tunesmith.pipeline.prepare import Prepared, reader_of
from tunesmith.recipe.resolved import Resolved
from tunesmith.samples import general_text

CHECKED_ROWS = 16
CALIBRATION_ROWS = 32
# Texts whose tokens are compared with those of the exported tokenizer.
_TEXTS = 8
# Tokens of an answer where the task asks for none.
_FREE_ANSWER = 32


@dataclass(frozen=True)
class CheckedRows:
    """What an export is checked on, and rows that fix the scales of targets that need some."""

    check: Check
    calibration: Sequence[Sequence[int]]


def rows_of_data(prepared: Prepared, resolved: Resolved, source: Source, count: int, described: str) -> CheckedRows:
    """Held-out rows of a run, or rows of a file, with the task's metrics.

    Raises:
        DataError: ``export.no_rows``: there is nothing to compare on.
    """
    held_out = choose_held_out(prepared, resolved)
    held_out = held_out.take(range(min(count, len(held_out.items))))
    rows = [_main_row(item) for item in held_out.items]
    if not rows:
        raise DataError("there are no rows to check the export on", code="export.no_rows", hint="give --data FILE")
    facts = {"rows_from": described}
    calibration = _calibration(prepared, len(rows))
    if source.kind == "head":
        metrics = _HeadMetrics(prepared, resolved, rows, held_out)
        return CheckedRows(Check(None, [row.token_ids_T.tolist() for row in rows], facts, metrics.measure), calibration)
    room = source.context_length
    most_new = resolved.max_new_tokens or _FREE_ANSWER
    prompts, asked = ask_plainly(held_out, prepared.tokenizer).prompts, bool(held_out.questions)
    if not asked:
        prompts = [_beginning(row) for row in rows]
    fitting = [at for at, prompt in enumerate(prompts) if room is None or len(prompt) + most_new < room]
    text = TextRows(
        rows=[_places(row) for row in rows],
        prompts=[prompts[at] for at in fitting],
        texts=[_text_of(row, prepared.tokenizer) for row in rows[:_TEXTS]],
        max_new_tokens=most_new,
        stop_token_ids=tuple(sorted({*prepared.stop_token_ids})),
    )
    text_metrics = _TextMetrics(prepared, resolved, [held_out.references[at] for at in fitting] if asked else [])
    return CheckedRows(Check(text, [], facts, text_metrics.measure), calibration)


def rows_of_samples(source: Source, count: int) -> CheckedRows:
    """Paragraphs of general English for a model without data of its own; there is no task to measure."""
    texts = [str(orjson.loads(line)["text"]) for line in general_text().read_bytes().splitlines()][: 2 * count]
    limit = min(256, source.context_length or 256)
    encoded = [list(source.tokenizer(text, truncation=True, max_length=limit)["input_ids"]) for text in texts]
    encoded = [row for row in encoded if len(row) > 1]
    checked, rest = encoded[:count], encoded[count:] or encoded
    facts = {"rows_from": "paragraphs that come with Tunesmith, for no data was named"}
    if source.kind != "text":
        return CheckedRows(Check(None, checked, facts), rest)
    prompts = [row[: max(1, len(row) // 2)] for row in checked]
    text = TextRows(
        rows=[(row, tuple(range(min(len(row) - 1, MOST_PLACES)))) for row in checked],
        prompts=prompts,
        texts=texts[:_TEXTS],
        max_new_tokens=min(_FREE_ANSWER, limit // 2),
        stop_token_ids=source.stop_token_ids,
    )
    return CheckedRows(Check(text, [], facts), rest)


def _main_row(item: tuple[TokenRow, ...]) -> TokenRow:
    """Of several rows the wanted one: the chosen answer of a pair."""
    return next((row for row in item if row.kind == 1), item[0])


def _places(row: TokenRow) -> tuple[list[int], tuple[int, ...]]:
    """The tokens up to the last place that is compared, and the places: each predicts the token behind it."""
    trained = [int(at) - 1 for at in np.flatnonzero(row.trained_T) if at > 0][:MOST_PLACES]
    end = (trained[-1] + 1) if trained else 1
    return row.token_ids_T[:end].tolist(), tuple(trained)


def _beginning(row: TokenRow) -> list[int]:
    """What stands before the first trained token; of a text that is learned whole, its first half."""
    first = int(np.flatnonzero(row.trained_T)[0]) if row.trained_T.any() else 0
    end = first if first > 1 else max(1, len(row.token_ids_T) // 2)
    tokens: list[int] = row.token_ids_T[:end].tolist()
    return tokens


def _text_of(row: TokenRow, tokenizer: Any) -> str:
    return str(tokenizer.decode(row.token_ids_T, skip_special_tokens=True))


def _calibration(prepared: Prepared, checked: int) -> list[list[int]]:
    """Training rows; where there are none, the held-out rows that are not checked."""
    items = prepared.train.items
    start = checked if prepared.data.measured_only and len(items) > 2 * checked else 0
    chosen = range(start, min(len(items), start + CALIBRATION_ROWS))
    return [_main_row(items.item(at)).token_ids_T.tolist() for at in chosen]


@dataclass(frozen=True)
class _TextMetrics:
    """The task's metrics of answers; none where nothing is asked."""

    prepared: Prepared
    resolved: Resolved
    references: Sequence[Any]

    def measure(self, answers: Sequence[Sequence[int]]) -> dict[str, float]:
        """Value of each metric."""
        if not self.references:
            return {}
        tokenizer = self.prepared.tokenizer
        texts = [tokenizer.decode(list(answer), skip_special_tokens=True).strip() for answer in answers]
        return _values(self.prepared, self.resolved, texts, self.references)


@dataclass(frozen=True)
class _HeadMetrics:
    """The task's metrics of a head's scores."""

    prepared: Prepared
    resolved: Resolved
    rows: Sequence[TokenRow]
    held_out: Any

    def measure(self, scores: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Value of each metric."""
        reader = reader_of(self.prepared, self.resolved.objective)
        by_place = dict(zip((row.place for row in self.rows), zip(self.rows, scores, strict=True), strict=True))
        if reader is None or not self.held_out.questions:
            return {}
        texts = []
        for place, example in zip(self.held_out.places, self.held_out.examples, strict=True):
            row, found = by_place[place]
            marked = found if len(found) == 1 else found[row.trained_T]
            texts.append(reader.answer(reader.encode(example), reader.predict(marked).tolist()))
        return _values(self.prepared, self.resolved, texts, self.held_out.references)


def _values(prepared: Prepared, resolved: Resolved, texts: list[str], references: Sequence[Any]) -> dict[str, float]:
    judge = judge_of(resolved, prepared)
    values: Mapping[str, Any] = {
        name: summarise(name, measure(name, texts, references, judge.labels), judge.seed) for name in judge.metrics
    }
    return {name: float(found["value"]) for name, found in values.items() if found.get("value") is not None}
