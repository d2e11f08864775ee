"""The before/after table of a report, for a terminal; report.json is read as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import Style, clean, out
from tunesmith.cli.words import NOTHING, count, duration, number, storage

_LOSSES = ("loss", "perplexity")
_LABELS = {"loss": "held-out loss"}


def print_report(report: Mapping[str, Any]) -> None:
    """Print metrics of every system, the verdict and what the run took."""
    systems = [system for system in report.get("systems") or [] if isinstance(system, Mapping)]
    if not systems:
        out("the report measures nothing")
        return
    names = _metric_names(report, systems)
    before, after = (_by_name(systems, name) for name in ("base", "tuned"))
    columns = [Column(_heading(report)), *(Column(_label(system), right=True) for system in systems)]
    if before and after:
        columns.append(Column("change", right=True))
    rows = []
    for name in names:
        row: list[str | Cell] = [_LABELS.get(name, name)]
        row += [_value(_measure(system, name)) for system in systems]
        if before and after:
            row.append(_change(report, name, _measure(before, name), _measure(after, name)))
        rows.append(row)
    print_table(columns, rows)
    _print_verdict(report)
    _print_cost(report)


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


def _value(measure: Mapping[str, Any]) -> str:
    value, low, high = (measure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return NOTHING
    text = _short(value)
    return f"{text} ({_short(low)} to {_short(high)})" if low is not None and high is not None else text


def _short(value: float) -> str:
    """Three digits behind the point say enough beside an interval; large ones need fewer."""
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
    if parts:
        out(", ".join(parts), "dim")
