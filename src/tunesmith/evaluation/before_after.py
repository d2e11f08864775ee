"""From measured systems to the parts of a report: metrics with intervals, the verdict, and answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluation.held_out import RowLosses
from tunesmith.evaluation.metrics import compare_paired, details, loss_rows, measure, pair_rows, score_losses, summarise
from tunesmith.evaluation.metrics.pairs import can_be_compared
from tunesmith.evaluation.metrics.types import Rows
from tunesmith.evaluation.otherwise import ways_table, worst_name, worst_rows
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.robustness import choice_metrics
from tunesmith.evaluation.systems import Measured


@dataclass(frozen=True)
class Judge:
    """How answers are judged: metrics (the first one decides), the label set, and the seed of the bootstrap."""

    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    seed: int


def report_systems(systems: Sequence[Measured], held_out: HeldOut, judge: Judge) -> list[dict[str, Any]]:
    """The ``systems`` of a report."""
    return [_system(system, held_out, judge) for system in systems]


def verdict(base: Measured, tuned: Measured, held_out: HeldOut, judge: Judge) -> dict[str, Any]:
    """Tuned against base on the primary metric, or on the loss where nothing is answered."""
    if judge.metrics and tuned.answers:
        name = judge.metrics[0]
        before, after = (measure(name, one.answers, held_out.references, judge.labels) for one in (base, tuned))
        return compare_paired(name, before, after, judge.seed)
    if judge.metrics and can_be_compared(tuned.pair_scores_B):
        name = judge.metrics[0]
        before, after = (pair_rows(name, one.pair_scores_B) for one in (base, tuned))
        return compare_paired(name, before, after, judge.seed)
    whole = (_of_whole_rows(one.losses, held_out) for one in (base, tuned))
    before, after = (loss_rows(losses.loss_sums_B, losses.counts_B) for losses in whole)
    return compare_paired("loss", before, after, judge.seed)


def _of_whole_rows(losses: RowLosses, held_out: HeldOut) -> RowLosses:
    """Losses with the pieces of one long text added up: pieces are too alike to be drawn one by one for an interval."""
    if len(losses.counts_B) != len(held_out.items):
        return losses
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for (first, *_), loss_sum, count in zip(held_out.items, losses.loss_sums_B, losses.counts_B, strict=True):
        sums[first.place] = sums.get(first.place, 0.0) + loss_sum
        counts[first.place] = counts.get(first.place, 0) + count
    return RowLosses(tuple(sums.values()), tuple(counts.values()))


def samples(
    systems: Sequence[Measured], held_out: HeldOut, judge: Judge, chosen: Sequence[int]
) -> list[dict[str, Any]]:
    """Questions with every system's answer; ``chosen`` are indices of questions."""
    metrics, labels = judge.metrics, judge.labels
    answering = [system for system in systems if system.answers]
    if not answering or not metrics:
        return []
    scores: dict[str, Rows] = {
        system.name: measure(metrics[0], system.answers, held_out.references, labels) for system in answering
    }
    return [
        {
            "place": held_out.places[at],
            "prompt": "\n\n".join(f"{message.role}: {message.content}" for message in held_out.questions[at].messages),
            "reference": held_out.questions[at].shown_reference,
            "answers": {system.name: system.answers[at] for system in answering},
            "scores": {name: float(rows.scores[at]) for name, rows in scores.items()},
        }
        for at in chosen
    ]


def _add_other_ways(found: dict[str, Any], system: Measured, held_out: HeldOut, judge: Judge) -> None:
    """The worst case of the deciding metric, and what each way of asking scores."""
    asked = (judge.metrics[0], system.answers, system.otherwise, held_out.references, judge.labels)
    worst = worst_name(judge.metrics[0])
    found["metrics"][worst] = summarise(worst, worst_rows(*asked), judge.seed)
    found["details"]["robustness"] = ways_table(*asked)


def _beside(system: Measured, seed: int) -> dict[str, Any]:
    """Metrics of what was measured beside the held-out rows."""
    found: dict[str, Any] = {} if system.choices is None else dict(choice_metrics(system.choices, seed))
    if system.general is not None and system.general.counts_B:
        rows = loss_rows(system.general.loss_sums_B, system.general.counts_B)
        found["general_perplexity"] = summarise("general_perplexity", rows, seed)
    return found


def _system(system: Measured, held_out: HeldOut, judge: Judge) -> dict[str, Any]:
    metrics, labels, seed = judge.metrics, judge.labels, judge.seed
    found: dict[str, Any] = {"name": system.name, "label": system.label}
    found["tokens"] = {"read": system.tokens_read, "written": system.tokens_written}
    if system.losses.counts_B:
        whole = _of_whole_rows(system.losses, held_out)
        found |= score_losses(whole.loss_sums_B, whole.counts_B, seed)
        if held_out.items[0][0].label_ids_T is not None:
            # Perplexity is a number of words that are as likely; a head chooses no words.
            del found["perplexity"]
    if system.answers and metrics:
        found["metrics"] = {
            name: summarise(name, measure(name, system.answers, held_out.references, labels), seed) for name in metrics
        }
        found["details"] = details(metrics, system.answers, held_out.references, labels)
        if system.otherwise:
            _add_other_ways(found, system, held_out, judge)
    if can_be_compared(system.pair_scores_B):
        found["metrics"] = {name: summarise(name, pair_rows(name, system.pair_scores_B), seed) for name in metrics}
    beside = _beside(system, seed)
    if beside:
        found["metrics"] = {**found.get("metrics", {}), **beside}
    if system.answers:
        found["generation"] = {
            "tokens": system.answer_tokens,
            "seconds": system.answer_seconds,
            "rows": len(system.answers),
        }
    return found
