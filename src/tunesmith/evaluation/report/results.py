"""The heart of a report: the verdict, the before/after table and the sample answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tunesmith.evaluation.metrics.table import METRICS
from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.layout import Answer, Cell, ShownSample, Table, Tone
from tunesmith.evaluation.report.schema import Interval, Report, Sample, System


def system_label(system: System) -> str:
    """The system's name for people."""
    return system.label or system.name.replace("_", " ")


def measures(system: System) -> dict[str, Interval]:
    """Task metrics, then loss and perplexity, of one system."""
    named: dict[str, Interval] = dict(system.metrics)
    for name, interval in (("loss", system.loss), ("perplexity", system.perplexity)):
        if interval is not None:
            named.setdefault(name, interval)
    return named


def metric_order(report: Report) -> list[str]:
    """Every metric that some system has, the primary one first."""
    names = dict.fromkeys(name for system in report.systems for name in measures(system))
    return sorted(names, key=lambda name: name != report.primary_metric)


def higher_is_better(report: Report, name: str) -> bool:
    """Whether more is better: as the report says, else as the table of metrics says."""
    for system in report.systems:
        if name in system.metrics:
            return system.metrics[name].higher_is_better
    return METRICS[name].higher_is_better if name in METRICS else True


def verdict_words(report: Report) -> tuple[str, str, Literal["better", "worse", "undecided"]]:
    """The headline of the verdict, a sentence with the numbers behind it, and its tone."""
    verdict = report.verdict
    if verdict is None:
        return "No verdict: base and tuned were not compared", "", "undecided"
    label = words.metric_label(verdict.metric)
    before, after = (words.metric_value(verdict.metric, value) for value in (verdict.base, verdict.tuned))
    measured = report.data.validation.used_rows if report.data.validation else None
    rows = verdict.rows or measured
    on_rows = f" on {rows:,} held-out rows" if rows else ""
    if rows and measured and measured > rows and verdict.metric == "loss":
        on_rows += f" in {measured:,} pieces"
    detail = f"{label} went from {before} to {after}{on_rows}; 95 % interval by paired bootstrap."
    text = words.clip(verdict.text or "undecided")
    headline = text[:1].upper() + text[1:]
    if not verdict.decided or not verdict.difference:
        return headline, detail, "undecided"
    improved = (verdict.difference > 0) == higher_is_better(report, verdict.metric)
    return headline, detail, "better" if improved else "worse"


def facts(report: Report) -> list[tuple[str, str]]:
    """What was tuned, how and when, as names and values."""
    technique = str(report.technique.get("name", ""))
    # What is empty, off or left as it is would hide the rest; all of it is among the values at the end.
    settings = ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in report.technique.items()
        if key != "name" and value and value != "default"
    )
    facts = [
        ("Base model", report.model.name),
        ("Task", report.task),
        ("Objective", report.objective),
        ("Technique", f"{technique} ({settings})" if settings else technique),
        ("Seed", "" if report.seed is None else str(report.seed)),
        ("Created", report.created),
        ("Tunesmith", report.tunesmith),
    ]
    return [(name, words.clip(value, 160)) for name, value in facts if value]


def results_table(report: Report) -> Table:
    """Metrics by systems, each with its interval; the last column says what tuning changed."""
    by_name = {system.name: system for system in report.systems}
    before, after = by_name.get("base"), by_name.get("tuned")
    rows = []
    for name in metric_order(report):
        higher = higher_is_better(report, name)
        row = [Cell(words.metric_label(name), "higher is better" if higher else "lower is better")]
        for system in report.systems:
            found = measures(system).get(name)
            row.append(
                Cell(words.metric_value(name, found.value), words.metric_range(name, found.low, found.high))
                if found
                else Cell(words.NOTHING)
            )
        if before and after:
            row.append(_change(report, name, measures(before).get(name), measures(after).get(name), higher=higher))
        rows.append(row)
    headings = ["Metric", *map(system_label, report.systems)]
    if before and after:
        headings.append("Base to tuned")
    return Table(headings, rows, frozenset(range(1, len(headings))))


def _change(report: Report, name: str, before: Interval | None, after: Interval | None, *, higher: bool) -> Cell:
    old, new = (None if interval is None else interval.value for interval in (before, after))
    change = Cell(words.metric_change(name, old, new))
    if report.verdict is None or report.verdict.metric != name:
        return change
    if not report.verdict.decided or not report.verdict.difference:
        return Cell(change.text, "undecided", "quiet")
    improved = (report.verdict.difference > 0) == higher
    return Cell(change.text, "better" if improved else "worse", "good" if improved else "bad")


def shown_sample(sample: Sample, systems: Sequence[System]) -> ShownSample:
    """A sample with its answers named and marked."""
    labels = {system.name: system_label(system) for system in systems}
    answers = []
    for name, text in sample.answers.items():
        score = (sample.scores or {}).get(name)
        mark, tone = _mark(score)
        label = labels.get(name, name.replace("_", " "))
        answers.append(Answer(label, words.clip(text, words.SAMPLE_CHARACTERS), mark, tone))
    reference = None if sample.reference is None else words.clip(sample.reference, words.SAMPLE_CHARACTERS)
    return ShownSample(
        words.clip(sample.place, 160), words.clip(sample.prompt, words.SAMPLE_CHARACTERS), reference, answers
    )


def _mark(score: float | None) -> tuple[str, Tone]:
    if score is None:
        return "", ""
    if score >= 1:
        return "right", "good"
    return ("wrong", "bad") if score <= 0 else (f"{100 * score:.0f} %", "quiet")
