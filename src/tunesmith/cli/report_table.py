"""The before/after table of a report, for a terminal; report.json is read as plain data."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from tunesmith.cli.tables import Cell, Column, print_table, table_width
from tunesmith.cli.terminal import Style, clean, out, width
from tunesmith.cli.words import NOTHING, count, duration, number, storage

_LOSSES = ("loss", "perplexity")
_LABELS = {"loss": "held-out loss"}


def print_report(report: Mapping[str, Any]) -> None:
    """Print metrics of every system, the verdict and what the run took."""
    systems = [system for system in report.get("systems") or [] if isinstance(system, Mapping)]
    if not systems:
        out("the report measures nothing")
        return
    columns, rows = _table(report, systems, apart=False)
    room = width(sys.stdout)
    if room is not None and table_width(columns, rows) > room:
        columns, rows = _table(report, systems, apart=True)
    print_table(columns, rows)
    _print_verdict(report)
    _print_cost(report)


def _table(
    report: Mapping[str, Any], systems: list[Mapping[str, Any]], *, apart: bool
) -> tuple[list[Column], list[list[str | Cell]]]:
    """Metrics by systems; ``apart`` puts each interval below its value, for a narrow terminal."""
    before, after = (_by_name(systems, name) for name in ("base", "tuned"))
    columns = [Column(_heading(report)), *(Column(_label(system), right=True, wrap=apart) for system in systems)]
    if before and after:
        columns.append(Column("change", right=True))
    rows: list[list[str | Cell]] = []
    for name in _metric_names(report, systems):
        measures = [_measure(system, name) for system in systems]
        change = [_change(report, name, _measure(before, name), _measure(after, name))] if before and after else []
        if not apart:
            rows.append([_LABELS.get(name, name), *map(_with_interval, measures), *change])
            continue
        rows.append([_LABELS.get(name, name), *(_short(measure.get("value")) for measure in measures), *change])
        if any(_interval(measure) for measure in measures):
            intervals = [Cell(_interval(measure), "dim") for measure in measures]
            rows.append(["", *intervals, *([""] if change else [])])
    return columns, rows


def metrics_of(report: Mapping[str, Any], system: str = "tuned") -> dict[str, float | None]:
    """Loss and metrics of one system as plain numbers."""
    found = _by_name([item for item in report.get("systems") or [] if isinstance(item, Mapping)], system)
    if found is None:
        return {}
    return {name: _measure(found, name).get("value") for name in _metric_names(report, [found])}


def _by_name(systems: list[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((system for system in systems if system.get("name") == name), None)


def _label(system: Mapping[str, Any]) -> str:
    return clean(str(system.get("label") or system.get("name") or "").replace("_", " "))


def _heading(report: Mapping[str, Any]) -> str:
    side = (report.get("data") or {}).get("validation") or {}
    rows = side.get("used_rows") or side.get("rows")
    return f"on {count(int(rows), 'held-out row')}" if rows else "measure"


def _measure(system: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = system.get(name) if name in _LOSSES else (system.get("metrics") or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def _metric_names(report: Mapping[str, Any], systems: list[Mapping[str, Any]]) -> list[str]:
    """Task metrics, the primary one first, then loss and perplexity."""
    names = dict.fromkeys(name for system in systems for name in system.get("metrics") or {})
    first = sorted(names, key=lambda name: name != report.get("primary_metric"))
    return first + [name for name in _LOSSES if any(system.get(name) for system in systems)]


def _with_interval(measure: Mapping[str, Any]) -> str:
    interval = _interval(measure)
    return f"{_short(measure.get('value'))} ({interval})" if interval else _short(measure.get("value"))


def _interval(measure: Mapping[str, Any]) -> str:
    low, high = measure.get("low"), measure.get("high")
    return f"{_short(low)} to {_short(high)}" if low is not None and high is not None else ""


def _short(value: float | None) -> str:
    """Three digits behind the point say enough beside an interval; large ones need fewer."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if abs(value) < 10 else number(float(value), 4)


def _change(report: Mapping[str, Any], name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | Cell:
    old, new = before.get("value"), after.get("value")
    if old is None or new is None:
        return NOTHING
    text = f"{new - old:+.3f}" if abs(new - old) < 10 else f"{new - old:+,.1f}"
    verdict = report.get("verdict") or {}
    if verdict.get("metric") != name or not verdict.get("decided"):
        return text
    higher = after.get("higher_is_better", name not in _LOSSES)
    style: Style = "green" if (new > old) == higher else "red"
    return Cell(text, style)


def _print_verdict(report: Mapping[str, Any]) -> None:
    verdict = report.get("verdict") or {}
    if verdict.get("text"):
        out()
        out(f"{clean(str(verdict.get('metric')))}: {clean(str(verdict['text']))}", "bold")


def _print_cost(report: Mapping[str, Any]) -> None:
    cost = report.get("cost") or {}
    parts = []
    if cost.get("steps"):
        parts.append(count(cost["steps"], "step"))
    if cost.get("tokens"):
        parts.append(count(cost["tokens"], "token"))
    if (cost.get("wall_seconds") or {}).get("total"):
        parts.append(duration(cost["wall_seconds"]["total"]))
    if cost.get("tokens_per_second"):
        parts.append(f"{cost['tokens_per_second']:,.0f} tokens/s")
    if cost.get("peak_memory_bytes"):
        parts.append(f"{storage(cost['peak_memory_bytes'])} at most")
    if cost.get("trained_parameters"):
        parts.append(f"{number(cost['trained_parameters'])} trained parameters")
    for line in textwrap.wrap(", ".join(parts), width(sys.stdout) or 1000):
        out(line, "dim")
