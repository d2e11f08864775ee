"""BLEU and chrF as sacreBLEU computes them, both on its scale of 0 to 100."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.evaluation.metrics.scripts import bleu_tokenizer
from tunesmith.evaluation.metrics.types import Array, Rows, accepted_answers, check_rows, divide

CHARACTER_ORDER = 6
BETA_SQUARED = 4.0


def bleu_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Per row: answer length, reference length, four counts of matching n-grams, four of all; shape (rows, 10).

    Words are told by the tokenizer that fits the script of the references.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_rows(predictions, references)
    bleu = BLEU(effective_order=True, tokenize=_tokenizer(references))
    statistics, scores = [], []
    for prediction, reference in zip(predictions, references, strict=True):
        row = bleu.sentence_score(prediction, list(accepted_answers(reference)))
        statistics.append([row.sys_len, row.ref_len, *row.counts, *row.totals])
        scores.append(row.score / 100)
    return Rows(np.array(statistics, dtype=np.float64), np.array(scores, dtype=np.float64))


def _tokenizer(references: Sequence[Any]) -> str:
    return bleu_tokenizer(text for reference in references for text in accepted_answers(reference))


def bleu_value(sums: Array) -> Array:
    """Corpus BLEU of each line of sums, by sacreBLEU's own formula and its default smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    return np.array(
        [
            BLEU.compute_bleu(line[2:6], line[6:], sys_len=line[0], ref_len=line[1], smooth_method="exp").score
            for line in sums.astype(np.int64).tolist()
        ]
    )


def _character_ngrams(text: str) -> list[Counter[str]]:
    joined = "".join(text.split())
    return [
        Counter(joined[start : start + order] for start in range(len(joined) - order + 1))
        for order in range(1, CHARACTER_ORDER + 1)
    ]


def _chrf_statistics(answer: list[Counter[str]], reference: list[Counter[str]]) -> Array:
    """Answer, reference and matching n-grams of each order; answer counts where the reference has none are left out."""
    return np.array(
        [
            [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
            for ours, theirs in zip(answer, reference, strict=True)
        ],
        dtype=np.float64,
    ).ravel()


def chrf_value(sums: Array) -> Array:
    """Corpus chrF of each line of sums: mean precision and recall over the orders that both sides have."""
    answer, reference, match = (sums[:, part::3] for part in range(3))
    both = (answer > 0) & (reference > 0)
    orders = both.sum(axis=1).astype(np.float64)
    precision = divide((divide(match, answer) * both).sum(axis=1), orders)
    recall = divide((divide(match, reference) * both).sum(axis=1), orders)
    return 100 * divide((1 + BETA_SQUARED) * precision * recall, BETA_SQUARED * precision + recall)


def chrf_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Per row: the counts of the accepted answer that fits best; shape (rows, 18)."""
    check_rows(predictions, references)
    statistics, scores = [], []
    for prediction, reference in zip(predictions, references, strict=True):
        answer = _character_ngrams(prediction)
        each = [_chrf_statistics(answer, _character_ngrams(text)) for text in accepted_answers(reference)]
        values = chrf_value(np.stack(each))
        best = int(values.argmax())
        statistics.append(each[best])
        scores.append(values[best] / 100)
    return Rows(np.stack(statistics), np.array(scores))


def translation_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """sacreBLEU's signatures, so that others can compute the same numbers."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    check_rows(predictions, references)
    counts = {len(accepted_answers(reference)) for reference in references}
    number: Any = str(counts.pop()) if len(counts) == 1 else "var"
    signatures = {}
    for name, metric in (("bleu", BLEU(tokenize=_tokenizer(references))), ("chrf", CHRF())):
        metric.num_refs = number
        signatures[name] = metric.get_signature().format()
    return {"signatures": signatures}
