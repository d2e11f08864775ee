"""Writing a report: the numbers as JSON, and the same as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.evaluation.report.html import to_html
from tunesmith.evaluation.report.markdown import to_markdown
from tunesmith.evaluation.report.page import make_page
from tunesmith.evaluation.report.pictures import draw_pictures
from tunesmith.evaluation.report.schema import clean, parse_report
from tunesmith.runs.atomic import write_json, write_text


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown.

    Raises:
        DataError: As in :func:`tunesmith.evaluation.report.schema.parse_report`.
    """
    return to_markdown(make_page(parse_report(report)))


def render_html(report: Mapping[str, Any]) -> str:
    """The report as one HTML page with its pictures inside; errors as in :func:`render_markdown`."""
    parsed = parse_report(report)
    return to_html(make_page(parsed), draw_pictures(parsed))


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.json, report.md and report.html into a folder that exists, each whole or not at all.

    The JSON comes first: if drawing fails, the numbers are safe.

    Raises:
        DataError: The report has not the form of report.json; nothing is written.
        OutputError: The folder cannot be written or the disk is full.
    """
    parse_report(report)
    write_json(folder / "report.json", clean(report))
    write_text(folder / "report.md", render_markdown(report))
    write_text(folder / "report.html", render_html(report))
