"""Runs for a terminal: a list, one run, two side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from tunesmith.cli.outcome import quoted, suggestions
from tunesmith.cli.report_table import metrics_of, print_report
from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import Style, clean, out, short_path
from tunesmith.cli.words import NOTHING, duration, number, storage
from tunesmith.errors import from_json
from tunesmith.jobs.states import RESUMABLE, RunStatus, State, run_status
from tunesmith.runs.atomic import read_json
from tunesmith.runs.compare import Comparison, Difference
from tunesmith.runs.layout import RunFolder

_HASH = re.compile(r"[0-9a-f]{64}")
_STYLES: dict[State, Style] = {
    "running": "cyan",
    "finished": "green",
    "paused": "yellow",
    "failed": "red",
    "died": "red",
}


def recipe_of(run: RunFolder) -> dict[str, Any]:
    """The run's recipe as it was given; empty where it cannot be read."""
    try:
        found = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def print_runs(found: Sequence[tuple[RunFolder, RunStatus]]) -> None:
    """Print one line for each run."""
    rows: list[list[str | Cell]] = []
    for run, status in found:
        recipe = recipe_of(run)
        rows.append(
            [
                run.name,
                Cell(status.words, _STYLES.get(status.state)),
                _steps(status),
                str(recipe.get("model", NOTHING)),
                _technique(run, recipe),
                _primary(run),
            ]
        )
    columns = [Column("run"), Column("state"), Column("steps", right=True), Column("model", wrap=True)]
    print_table([*columns, Column("technique"), Column("result")], rows)


def print_run(run: RunFolder, status: RunStatus | None = None) -> None:
    """Print state, recipe, metrics and files of a run; its state where somebody else knows it better."""
    status = status or run_status(run)
    out(f"{run.name}  {status.words}", "bold")
    rows = [["folder", short_path(run.path)], ["steps", _steps(status)]]
    if status.loss is not None:
        rows.append(["last loss", number(status.loss)])
    if status.state == "running" and status.seconds_left is not None:
        rows.append(["time left", duration(status.seconds_left)])
    if status.last_event:
        rows.append(["last event", status.last_event])
    print_table([Column(""), Column("", wrap=True)], rows, "  ")
    if status.error is not None:
        out()
        for line in from_json(status.error).lines():
            out(clean(line), "red")
    for warning in status.warnings:
        out(f"warning: {clean(warning)}", "yellow")
    out()
    out("recipe", "bold")
    for line in run.recipe.read_text(encoding="utf-8", errors="replace").splitlines():
        out(f"  {clean(line)}")
    if run.report_json.exists():
        out()
        print_report(read_json(run.report_json))
    _print_files(run)
    _print_next(run, status)


def print_comparison(found: Comparison) -> None:
    """Print what differs between two runs, part by part."""
    for warning in found.warnings:
        out(f"warning: {clean(warning)}", "yellow")
    for section in dict.fromkeys(row.section for row in found.rows):
        rows = [row for row in found.rows if row.section == section]
        out()
        out(section if section in ("metrics", "cost") else f"{section}, where they differ", "bold")
        values = Column(found.a, right=section in ("metrics", "cost"), wrap=True)
        columns = [Column(""), values, Column(found.b, right=values.right, wrap=True)]
        cells = [[row.what, _compared(row.a, row.a_range), _compared(row.b, row.b_range)] for row in rows]
        if section in ("metrics", "cost"):
            columns.append(Column("change", right=True))
            cells = [[*line, _difference(row)] for line, row in zip(cells, rows, strict=True)]
        print_table(columns, cells, "  ")


def _steps(status: RunStatus) -> str:
    return f"{status.step:,}/{status.total_steps:,}" if status.total_steps else f"{status.step:,}"


def _technique(run: RunFolder, recipe: dict[str, Any]) -> str:
    """The technique that the recipe names, else the one that the run chose."""
    technique = recipe.get("technique")
    if technique is None and run.resolved.exists():
        portable = read_json(run.resolved).get("portable") or {}
        technique = (portable.get("technique") or {}).get("value")
    if isinstance(technique, dict):
        technique = technique.get("name")
    return NOTHING if technique is None else str(technique)


def _primary(run: RunFolder) -> str:
    """The tuned model's primary metric, or its held-out loss where the task has none."""
    if not run.report_json.exists():
        return NOTHING
    report = read_json(run.report_json)
    metrics = metrics_of(report)
    name = report.get("primary_metric") or "loss"
    return f"{name} {number(metrics.get(name), 3)}" if metrics.get(name) is not None else NOTHING


def _print_files(run: RunFolder) -> None:
    rows = []
    for path in sorted(run.path.iterdir()):
        if path.name.startswith("."):
            continue
        files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
        size = sum(item.stat().st_size for item in files)
        rows.append([path.name + ("/" if path.is_dir() else ""), storage(size)])
    out()
    out("files", "bold")
    print_table([Column(""), Column("", right=True)], rows, "  ")


def _print_next(run: RunFolder, status: RunStatus) -> None:
    commands = []
    if status.state == "finished":
        commands = [command for command in suggestions(run) if " runs show " not in command]
    elif status.state in RESUMABLE or status.state == "running":
        commands = [f"tunesmith runs resume {quoted(run)}"]
    if commands:
        out()
        out("next", "bold")
        for command in commands:
            out(f"  {command}")


def _compared(value: Any, interval: tuple[float, float] | None) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value):
        return f"{value[:12]}..."
    if interval is None or not isinstance(value, float):
        return number(value)
    return f"{number(value, 3)} ({number(interval[0], 3)} to {number(interval[1], 3)})"


def _difference(row: Difference) -> str:
    if row.difference is None or (isinstance(row.difference, float) and not math.isfinite(row.difference)):
        return NOTHING
    sign = "+" if row.difference > 0 else ""
    return f"{sign}{number(row.difference, 3)}"
