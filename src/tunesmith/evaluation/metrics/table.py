"""The table of metrics: what each is called, what it needs, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics import (
    abc_notation,
    classification,
    entities,
    exact_match,
    final_number,
    function_calls,
    json_fields,
    losses,
    sql,
    text_overlap,
    text_quality,
    translation,
)
from tunesmith.evaluation.metrics.choices import CHOICE_METRICS, WORST
from tunesmith.evaluation.metrics.pairs import PAIR_METRICS
from tunesmith.evaluation.metrics.types import Metric, ratio_value

T = TypeVar("T")


def _plain(
    function: Callable[[Sequence[Any], Sequence[Any]], T],
) -> Callable[[Sequence[Any], Sequence[Any], Sequence[str]], T]:
    """A function of answers and references as one that is handed the label set too."""
    return lambda predictions, references, labels: function(predictions, references)  # noqa: ARG005


# One object for metrics that share their details, so that they are computed once.
_JSON = _plain(json_fields.json_details)
_TRANSLATION = _plain(translation.translation_details)
_CALLS = _plain(function_calls.call_details)
_TUNES = _plain(abc_notation.abc_details)
# Labels of distinct-n by n.
_DISTINCT = {1: "Distinct words", 2: "Distinct word pairs", 3: "Distinct word triples"}

_TABLE: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *CHOICE_METRICS,
        *PAIR_METRICS,
        Metric(
            "accuracy",
            "Accuracy",
            "share",
            True,
            "labels",
            ratio_value,
            classification.accuracy_rows,
            classification.classification_details,
            proportion=True,
        ),
        Metric(
            "macro_f1",
            "Macro F1",
            "share",
            True,
            "labels",
            classification.macro_f1_value,
            classification.macro_f1_rows,
            classification.classification_details,
        ),
        Metric(
            "json_exact",
            "Whole object right",
            "share",
            True,
            "json",
            ratio_value,
            _plain(json_fields.json_exact_rows),
            _JSON,
            proportion=True,
        ),
        Metric(
            "json_fields",
            "Fields right",
            "share",
            True,
            "json",
            ratio_value,
            _plain(json_fields.json_field_rows),
            _JSON,
        ),
        Metric(
            "json_valid",
            "Valid JSON",
            "share",
            True,
            "json",
            ratio_value,
            _plain(json_fields.json_valid_rows),
            _JSON,
            proportion=True,
        ),
        Metric(
            "exact_match",
            "Exact match",
            "share",
            True,
            "answers",
            ratio_value,
            _plain(exact_match.exact_match_rows),
            proportion=True,
        ),
        Metric("token_f1", "Token F1", "share", True, "answers", ratio_value, _plain(exact_match.token_f1_rows)),
        Metric(
            "final_number",
            "Final number right",
            "share",
            True,
            "number",
            ratio_value,
            _plain(final_number.final_number_rows),
            _plain(final_number.final_number_details),
            proportion=True,
        ),
        Metric(
            "bleu", "BLEU", "points", True, "text", translation.bleu_value, _plain(translation.bleu_rows), _TRANSLATION
        ),
        Metric(
            "chrf", "chrF", "points", True, "text", translation.chrf_value, _plain(translation.chrf_rows), _TRANSLATION
        ),
        Metric(
            "entity_f1",
            "Entity F1",
            "share",
            True,
            "spans",
            entities.f1_value,
            entities.span_rows,
            entities.span_details,
        ),
        Metric(
            "entity_precision",
            "Entity precision",
            "share",
            True,
            "spans",
            entities.precision_value,
            entities.span_rows,
            entities.span_details,
        ),
        Metric(
            "entity_recall",
            "Entity recall",
            "share",
            True,
            "spans",
            entities.recall_value,
            entities.span_rows,
            entities.span_details,
        ),
        Metric(
            "tag_f1",
            "Entity F1 by place",
            "share",
            True,
            "tags",
            entities.f1_value,
            _plain(entities.tag_rows),
            _plain(entities.tag_details),
        ),
        Metric(
            "rouge_l",
            "ROUGE-L",
            "share",
            True,
            "text",
            ratio_value,
            _plain(text_overlap.rouge_l_rows),
            _plain(text_quality.text_details),
        ),
        Metric(
            "calls_match",
            "Calls right",
            "share",
            True,
            "calls",
            ratio_value,
            _plain(function_calls.calls_match_rows),
            _CALLS,
            proportion=True,
        ),
        Metric(
            "call_names",
            "Functions right",
            "share",
            True,
            "calls",
            ratio_value,
            _plain(function_calls.call_names_rows),
            _CALLS,
            proportion=True,
        ),
        Metric(
            "sql_execution",
            "Results right",
            "share",
            True,
            "sql",
            ratio_value,
            _plain(sql.sql_execution_rows),
            _plain(sql.sql_details),
        ),
        Metric(
            "sql_exact", "Queries equal", "share", True, "sql", ratio_value, _plain(sql.sql_exact_rows), proportion=True
        ),
        Metric(
            "abc_valid",
            "Valid tunes",
            "share",
            True,
            "tune",
            ratio_value,
            _plain(abc_notation.abc_valid_rows),
            _TUNES,
            proportion=True,
        ),
        Metric(
            "abc_bars",
            "Bars as long as the meter",
            "share",
            True,
            "tune",
            ratio_value,
            _plain(abc_notation.abc_bars_rows),
            _TUNES,
        ),
        *(
            Metric(
                f"distinct_{ngram_words}",
                label,
                "share",
                True,
                "text",
                ratio_value,
                _plain(partial(text_quality.distinct_rows, ngram_words=ngram_words)),
            )
            for ngram_words, label in _DISTINCT.items()
        ),
        Metric("loss", "Held-out loss", "nats", False, "token_losses", ratio_value),
        Metric("perplexity", "Perplexity", "ratio", False, "token_losses", losses.perplexity_value),
        Metric(
            "general_perplexity",
            "Perplexity of general text",
            "ratio",
            False,
            "token_losses",
            losses.perplexity_value,
        ),
    )
}

# Metrics that are means of what each row scores also have a worst case over several ways of asking.
METRICS: Mapping[str, Metric] = {
    **_TABLE,
    **{
        f"{name}{WORST}": Metric(
            f"{name}{WORST}",
            f"{metric.label} robustness",
            "share",
            True,
            metric.needs,
            ratio_value,
            proportion=metric.proportion,
        )
        for name, metric in _TABLE.items()
        if metric.measure is not None and metric.value is ratio_value and metric.unit == "share"
    },
}


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: ``metrics.unknown``, with the nearest known name.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    known = ", ".join(METRICS)
    raise UsageError(
        "no such metric",
        code="metrics.unknown",
        value=name,
        hint=f"did you mean {near[0]}?" if near else f"known metrics: {known}",
    )
