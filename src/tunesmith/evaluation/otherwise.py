"""Questions of a task asked otherwise: mistyped and reworded, and the worst answer over all ways of asking.

Only what a person would type is changed: the text to classify, the question but not the context it is about, the last
request of a conversation. Rows whose answer quotes the text (entities, translations, texts to be written on) are not
asked otherwise, since another text has another answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.evaluation.metrics import Rows, measure
from tunesmith.evaluation.metrics.choices import WORST
from tunesmith.evaluation.metrics.table import find_metric
from tunesmith.evaluation.perturb import Perturbation, perturb
from tunesmith.formats.examples import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PromptCompletion,
    QuestionAnswer,
    SqlQuestion,
    ToolRequest,
)

Answers = Mapping[str, Sequence[str | None]]


def asked_otherwise(example: Example, kind: Perturbation, seed: int) -> Example | None:
    """The example with another wording of what is asked; None where its answer depends on the very words."""
    match example:
        case LabelledText(text=text):
            return replace(example, text=perturb(text, kind, seed))
        case QuestionAnswer(question=question) | SqlQuestion(question=question):
            return replace(example, question=perturb(question, kind, seed))
        case PromptCompletion(prompt=prompt):
            return replace(example, prompt=perturb(prompt, kind, seed))
        case ToolRequest(messages=messages) | Conversation(messages=messages):
            return replace(example, messages=_last_request_changed(messages, kind, seed))
        case _:
            return None


def _last_request_changed(messages: tuple[Message, ...], kind: Perturbation, seed: int) -> tuple[Message, ...]:
    asked = [at for at, message in enumerate(messages) if message.role == "user"]
    if not asked:
        return messages
    at = asked[-1]
    changed = replace(messages[at], content=perturb(messages[at].content, kind, seed))
    return (*messages[:at], changed, *messages[at + 1 :])


def worst_rows(
    metric: str, answers: Sequence[str], otherwise: Answers, references: Sequence[Any], labels: Sequence[str]
) -> Rows:
    """Each question as in the way of asking in which it scores lowest; sums give the metric, never above any way's.

    Args:
        metric: A metric that scores rows one by one.
        answers: Answers to the questions as they are written.
        otherwise: By kind of change the answers, None where the change leaves the question as it is.
        references: What answers are compared with.
        labels: The label set.
    """
    ways = [measure(metric, answers, references, labels)]
    ways += [measure(metric, _filled(found, answers), references, labels) for found in otherwise.values()]
    scores = np.stack([way.scores for way in ways])
    worst_B, rows_B = scores.argmin(axis=0), np.arange(scores.shape[1])
    statistics = np.stack([way.statistics for way in ways])
    each_worst = Rows(statistics[worst_B, rows_B], scores[worst_B, rows_B])
    # Where answers count by their length (bars of tunes), a single way can be lower than short answers at their worst.
    return min([each_worst, *ways], key=lambda rows: _value(metric, rows))


def _value(metric: str, rows: Rows) -> float:
    return float(find_metric(metric).value(rows.statistics.sum(axis=0, keepdims=True))[0])


def ways_table(
    metric: str, answers: Sequence[str], otherwise: Answers, references: Sequence[Any], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """What each way of asking scores on all questions, and how many it changes; the worst case last."""

    def line(asked: str, changed: int, rows: Rows) -> dict[str, Any]:
        return {"asked": asked, "changed": changed, metric: _value(metric, rows)}

    table = [line("as_written", 0, measure(metric, answers, references, labels))]
    for kind, found in otherwise.items():
        changed = sum(answer is not None for answer in found)
        table.append(line(kind, changed, measure(metric, _filled(found, answers), references, labels)))
    return [*table, line("worst_case", len(answers), worst_rows(metric, answers, otherwise, references, labels))]


def worst_name(metric: str) -> str:
    """The name of a metric's worst case."""
    return f"{metric}{WORST}"


def _filled(found: Sequence[str | None], answers: Sequence[str]) -> list[str]:
    """Answers of one way of asking, with those to the questions that it leaves as they are."""
    return [own if other is None else other for other, own in zip(found, answers, strict=True)]
