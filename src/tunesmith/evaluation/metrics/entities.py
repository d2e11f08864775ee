"""Named entities: generated JSON spans against gold spans, and tag sequences (BIO) through seqeval's reading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.json_fields import parse_json
from tunesmith.evaluation.metrics.types import Array, Rows, check_rows, divide

# Outside of entities, or a prefix of IOB, IOBES or BILOU with a label behind it.
_TAG = re.compile(r"O$|[BIESLU]-.")

Spans = Counter[tuple[str, ...]]


def parse_spans(text: str) -> Spans | None:
    """The (label, text) pairs of a JSON list of ``{"text", "label"}``, with counts; None where it is anything else."""
    return _spans(parse_json(text))


def _spans(value: Any) -> Spans | None:
    if not isinstance(value, list | tuple):
        return None
    spans: Spans = Counter()
    for item in value:
        if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in ("text", "label")):
            return None
        spans[item["label"].strip(), " ".join(item["text"].split())] += 1
    return spans


def _gold_spans(reference: Any) -> Spans:
    spans = parse_spans(reference) if isinstance(reference, str) else _spans(reference)
    if spans is None:
        raise UsageError(
            "a reference is not a list of spans with text and label",
            code="metrics.reference",
            value=repr(reference)[:80],
        )
    return spans


def _rows(pairs: Sequence[tuple[Spans | None, Spans]]) -> Rows:
    """Per row: matched, predicted, gold. The row's own score is its F1; a rightly empty answer is 1."""
    statistics, scores = [], []
    for answer, gold in pairs:
        found = answer or Counter()
        matched, predicted, expected = (found & gold).total(), found.total(), gold.total()
        statistics.append([matched, predicted, expected])
        empty = float(answer is not None)
        scores.append(2 * matched / (predicted + expected) if predicted + expected else empty)
    return Rows(np.array(statistics, dtype=np.float64), np.array(scores, dtype=np.float64))


def _pairs(
    predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]
) -> list[tuple[Spans | None, Spans]]:
    """Answers and gold spans; labels without regard to case, unless two of the set differ in case alone."""
    check_rows(predictions, references)
    found = [(parse_spans(answer), _gold_spans(gold)) for answer, gold in zip(predictions, references, strict=True)]
    known = {label.strip() for label in labels} or {label for _, gold in found for label, _ in gold}
    if len({label.casefold() for label in known}) < len(known):
        return found
    return [(None if answer is None else _folded(answer), _folded(gold)) for answer, gold in found]


def _folded(spans: Spans) -> Spans:
    folded: Spans = Counter()
    for (label, text), count in spans.items():
        folded[label.casefold(), text] += count
    return folded


def span_rows(predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]) -> Rows:
    """Generated spans against gold spans as multisets; an answer that is no list of spans has found nothing."""
    return _rows(_pairs(predictions, references, labels))


def precision_value(sums: Array) -> Array:
    """Matched divided by predicted."""
    return divide(sums[:, 0], sums[:, 1])


def recall_value(sums: Array) -> Array:
    """Matched divided by gold."""
    return divide(sums[:, 0], sums[:, 2])


def f1_value(sums: Array) -> Array:
    """The harmonic mean of precision and recall."""
    return divide(2 * sums[:, 0], sums[:, 1] + sums[:, 2])


def _per_label(pairs: Sequence[tuple[Spans | None, Spans]]) -> list[dict[str, Any]]:
    matched, predicted, gold = Counter[str](), Counter[str](), Counter[str]()
    for answer, expected in pairs:
        found = answer or Counter()
        for counts, spans in ((matched, found & expected), (predicted, found), (gold, expected)):
            for span, count in spans.items():
                counts[span[0]] += count
    return [
        {
            "label": label,
            "precision": matched[label] / predicted[label] if predicted[label] else 0.0,
            "recall": matched[label] / gold[label] if gold[label] else 0.0,
            "f1": 2 * matched[label] / (predicted[label] + gold[label]),
            "rows": gold[label],
        }
        for label in sorted(predicted | gold)
    ]


def span_details(predictions: Sequence[str], references: Sequence[Any], labels: Sequence[str]) -> dict[str, Any]:
    """The table of entity labels (``rows`` counts gold spans) and the share of answers that are lists of spans."""
    pairs = _pairs(predictions, references, labels)
    valid = sum(answer is not None for answer, _ in pairs)
    return {"invalid": len(pairs) - valid, "format_valid": valid / len(pairs), "per_label": _per_label(pairs)}


def _placed(value: Any) -> Spans | None:
    """Labels with first and last character of a list of entities with their places; None where it is anything else."""
    entities = parse_json(value) if isinstance(value, str) else value
    if not isinstance(entities, list | tuple):
        return None
    if not all(
        isinstance(item, Mapping) and isinstance(item.get("label"), str) and {"start", "end"} <= item.keys()
        for item in entities
    ):
        return None
    return Counter((item["label"], str(item["start"]), str(item["end"])) for item in entities)


def _tags(value: Any) -> list[str]:
    tags = value.split() if isinstance(value, str) else value
    if isinstance(tags, list | tuple) and all(isinstance(tag, str) and _TAG.match(tag) for tag in tags):
        return list(tags)
    raise UsageError(
        "a row has neither tags nor entities with their places", code="metrics.reference", value=repr(value)[:80]
    )


def _tag_pair(answer: Any, gold: Any, row: int) -> tuple[Spans | None, Spans]:
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    placed = _placed(gold)
    if placed is not None:
        return _placed(answer), placed
    sequences = [_tags(tags) for tags in (answer, gold)]
    if len(sequences[0]) != len(sequences[1]):
        raise UsageError(
            "a row has more or fewer predicted tags than tokens",
            code="metrics.tags",
            place=f"row {row}",
            value=f"{len(sequences[0])} tags for {len(sequences[1])} tokens",
        )
    spans: list[Spans] = [
        Counter((str(label), str(start), str(end)) for label, start, end in get_entities(tags)) for tags in sequences
    ]
    return spans[0], spans[1]


def _tag_pairs(predictions: Sequence[Any], references: Sequence[Any]) -> list[tuple[Spans | None, Spans]]:
    check_rows(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return [_tag_pair(answer, gold, row) for row, (answer, gold) in enumerate(pairs, start=1)]


def tag_rows(predictions: Sequence[Any], references: Sequence[Any]) -> Rows:
    """Entities by label and place, as seqeval reads tags; same columns.

    Rows are tags (lists, or one string with spaces), or what tags of a head spell: JSON lists of entities with
    ``label``, ``start`` and ``end``. Labels are the same where every letter is.
    """
    return _rows(_tag_pairs(predictions, references))


def tag_details(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    """The table of entity labels of tags, or of entities with their places."""
    return {"per_label": _per_label(_tag_pairs(predictions, references))}
