"""The report of a run: its schema, and its rendering as JSON, Markdown and HTML."""

from tunesmith.evaluation.report.schema import FORMAT, Report, parse_report
from tunesmith.evaluation.report.write import render_html, render_markdown, write_report

__all__ = ["FORMAT", "Report", "parse_report", "render_html", "render_markdown", "write_report"]
