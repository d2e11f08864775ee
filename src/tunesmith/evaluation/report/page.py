"""A report laid out for reading. Pictures are HTML's own."""

from __future__ import annotations

from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.layout import Page
from tunesmith.evaluation.report.results import facts, results_table, shown_sample, verdict_words
from tunesmith.evaluation.report.schema import Report
from tunesmith.evaluation.report.sections import sections


def make_page(report: Report) -> Page:
    """Lay a report out for reading."""
    verdict, detail, tone = verdict_words(report)
    failed = [check.name for check in report.audit if not check.ok]
    alerts = [f"{len(failed)} failed audit check{'s'[: len(failed) > 1]}: {', '.join(failed)}"] if failed else []
    if report.warnings:
        alerts.append(f"{len(report.warnings)} warning{'s'[: len(report.warnings) > 1]} at the end of this report")
    return Page(
        title=report.run,
        facts=facts(report),
        verdict=verdict,
        verdict_detail=detail,
        tone=tone,
        alerts=[words.clip(alert) for alert in alerts],
        results=results_table(report),
        samples=[shown_sample(sample, report.systems) for sample in report.samples],
        sections=sections(report),
    )
