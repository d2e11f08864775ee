"""Measure one or several models by multiple choice or by tasks of the harness, one after the other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.cli.terminal import note, out, out_json, short_path

_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


def score_models(
    models: Sequence[str], request: Mapping[str, Any], output: Path | None, runs: Path, *, as_json: bool
) -> None:
    """Measure each model in a worker of its own, so that the memory of one is free before the next, and show results.

    Several models get a chart beside their reports. What was measured before an error stays in ``output``.

    Raises:
        TunesmithError: The worker's error.
    """
    from tunesmith.cli.report_table import print_report
    from tunesmith.runs.atomic import read_json

    reports: list[dict[str, Any]] = []
    for number, model in enumerate(models, 1):
        if len(models) > 1:
            note(f"{model} ({number} of {len(models)})", "bold")
        place = output
        if output is not None and len(models) > 1:
            place = output / f"{number:02}-{_NOT_IN_NAMES.sub('-', Path(model).name)}"
        reports.append(_score(model, request, place, runs))
    chart = None
    if len(models) > 1:
        with draw(reports, ()) as folder:
            chart = read_json(folder / "chart.json")
            if output is not None:
                for path in folder.glob("chart.*"):
                    shutil.copyfile(path, output / path.name)
    if as_json:
        out_json(reports[0] if chart is None else {"reports": reports, "chart": chart})
    else:
        for number, report in enumerate(reports):
            if len(reports) > 1:
                # As it was asked for: two folders may have one name.
                out(models[number] if number == 0 else f"\n{models[number]}", "bold")
            print_report(report)
    if output is not None:
        note(f"report: {short_path(output / ('report.html' if chart is None else 'chart.html'))}")


def keep_report(folder: Path, place: Path) -> None:
    """Copy the report of a scratch folder into a new folder.

    Raises:
        OutputError: The folder exists or cannot be written.
    """
    from tunesmith.runs.atomic import new_folder

    with new_folder(place) as scratch:
        for path in folder.glob("report.*"):
            shutil.copyfile(path, scratch / path.name)


def draw(reports: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Any:
    """Draw reports side by side; a context manager as :func:`tunesmith.jobs.stages.chart`."""
    from tunesmith.jobs.stages import chart

    return chart(reports, metrics, lambda _: None)


def _score(model: str, request: Mapping[str, Any], place: Path | None, runs: Path) -> dict[str, Any]:
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.stages import benchmark
    from tunesmith.runs.atomic import read_json

    asked = {**request, "model": model}
    with open_view() as view, benchmark(asked, showing(view), runs_folder=runs) as folder:
        report: dict[str, Any] = read_json(folder / "report.json")
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            keep_report(folder, place)
        return report
