"""A chart with its numbers, as one HTML page, an SVG file, a PNG file and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.chart import SIDES, Chart, chart_picture, make_chart, standalone_svg, write_png
from tunesmith.evaluation.report.html import to_html
from tunesmith.evaluation.report.layout import Cell, Page, Section, Table
from tunesmith.evaluation.report.schema import Interval, Report, parse_report
from tunesmith.evaluation.report.words import metric_label, metric_range, metric_value
from tunesmith.runs.atomic import write_json, write_text


def write_chart(reports: Sequence[Mapping[str, Any]], metrics: Sequence[str], folder: Path) -> None:
    """Write chart.json, chart.svg, chart.html and chart.png into a folder that exists.

    Args:
        reports: What report.json files hold, in the order in which the models are shown.
        metrics: What to show; as in :func:`tunesmith.evaluation.report.chart.make_chart`.
        folder: Where to.

    Raises:
        DataError: A report cannot be read, or there is nothing to show.
        OutputError: The folder cannot be written or the disk is full.
    """
    parsed = [parse_report(report) for report in reports]
    chart = make_chart(parsed, metrics)
    write_json(folder / "chart.json", chart.to_json())
    write_text(folder / "chart.svg", standalone_svg(chart))
    write_text(folder / "chart.html", to_html(_page(chart, parsed), [chart_picture(chart)]))
    write_png(chart, folder / "chart.png")


def _page(chart: Chart, reports: Sequence[Report]) -> Page:
    versions = ", ".join(dict.fromkeys(report.tunesmith for report in reports if report.tunesmith))
    tuned = sum(any("after" in found for found in model.metrics.values()) for model in chart.models)
    note = "Ranges are 95 % intervals."
    return Page(
        title="Before and after fine-tuning",
        facts=[("Tunesmith", versions)] if versions else [],
        verdict=f"{len(chart.models)} model{'s'[: len(chart.models) != 1]}, {tuned} of them tuned",
        verdict_detail=", ".join(map(metric_label, chart.metrics)),
        tone="undecided",
        alerts=[],
        results=Table([], []),
        samples=[],
        sections=[Section("numbers", "Numbers", _numbers(chart), note)],
    )


def _numbers(chart: Chart) -> Table:
    """A row for each model, and before, after and change for each metric."""
    headings = ["Model", *(text for name in chart.metrics for text in (metric_label(name), "after", "change"))]
    rows = []
    for model in chart.models:
        cells = [Cell(words.clip(model.name, 80))]
        for metric in chart.metrics:
            found = model.metrics.get(metric, {})
            cells += [_cell(metric, found.get(side)) for side in SIDES]
            before, after = (found[side].value if side in found else None for side in SIDES)
            cells.append(Cell(words.metric_change(metric, before, after)))
        rows.append(cells)
    return Table(headings, rows, frozenset(range(1, len(headings))))


def _cell(metric: str, found: Interval | None) -> Cell:
    if found is None:
        return Cell(words.NOTHING)
    return Cell(metric_value(metric, found.value), metric_range(metric, found.low, found.high))
