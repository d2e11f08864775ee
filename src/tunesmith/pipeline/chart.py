"""The stage that draws reports side by side; it loads no model."""

from __future__ import annotations

from pathlib import Path

from tunesmith.evaluation.report.chart_page import write_chart
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import EventWriter


def run_chart(folder: Path, events: EventWriter) -> None:
    """Draw the reports that ``request.json`` holds under ``reports``, by the metrics under ``metrics``.

    Raises:
        DataError: A report cannot be read, or there is nothing to show.
        OutputError: The folder cannot be written or the disk is full.
    """
    request = read_json(folder / "request.json")
    write_chart(request["reports"], request.get("metrics") or (), folder)
    events.emit("artifact", kind="chart", path="chart.html")
    events.emit("status", None, state="finished")
