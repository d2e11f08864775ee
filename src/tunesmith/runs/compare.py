"""Two runs side by side: what was asked differently, and what came of it.

Works on report.json as plain data, so that reports of any version can be laid side by side without the training
stack. Of recipe, resolved values, data and environment only the differences are told; metrics and cost always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

MISSING = None
_RECIPE_KEYS = ("model", "task", "objective", "technique", "seed", "primary_metric")
_LOSSES = ("loss", "perplexity")


@dataclass(frozen=True)
class Difference:
    """One line of a comparison.

    ``section`` is recipe, resolved, data, environment, metrics or cost. ``difference`` is b minus a where both are
    numbers. ``a_range`` and ``b_range`` are the 95 % intervals of metrics, None elsewhere.
    """

    section: str
    what: str
    a: Any
    b: Any
    difference: float | None = None
    a_range: tuple[float, float] | None = None
    b_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side. ``warnings`` say why their numbers may not be comparable."""

    a: str
    b: str
    rows: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


def compare(report_a: Mapping[str, Any], report_b: Mapping[str, Any]) -> Comparison:
    """Lay two reports side by side, as read from report.json."""
    recipes = [{key: report[key] for key in _RECIPE_KEYS if key in report} for report in (report_a, report_b)]
    resolved = [_resolved(report) for report in (report_a, report_b)]
    rows = [
        *_changed("recipe", *recipes),
        *_changed("resolved", *resolved),
        *_changed("data", _part(report_a, "data"), _part(report_b, "data")),
        *_changed("environment", _part(report_a, "environment"), _part(report_b, "environment")),
        *_metrics(report_a, report_b),
        *_pairs("cost", _part(report_a, "cost"), _part(report_b, "cost")),
    ]
    names = [str(report.get("run", "")) for report in (report_a, report_b)]
    return Comparison(names[0], names[1], tuple(rows), tuple(_warnings(report_a, report_b)))


def _part(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = report.get(key)
    return part if isinstance(part, Mapping) else {}


def _resolved(report: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved values without their reasons: a reason told in other words is no difference."""
    return {
        key: item.get("value") if isinstance(item, Mapping) else item for key, item in _part(report, "resolved").items()
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path; a list of plain values is one leaf, a list of objects is numbered from 1."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _flat(item, f"{path}.{number}")
    else:
        yield path, value


def _pairs(section: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    left, right = dict(_flat(a)), dict(_flat(b))
    paths = dict.fromkeys([*left, *right])
    return [_line(section, path, left.get(path, MISSING), right.get(path, MISSING)) for path in paths]


def _changed(section: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    return [line for line in _pairs(section, a, b) if not _same(line.a, line.b)]


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(section: str, what: str, a: Any, b: Any) -> Difference:
    return Difference(section, what, a, b, b - a if _number(a) and _number(b) else None)


def _measures(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every measure as ``system.metric``."""
    found: dict[str, Mapping[str, Any]] = {}
    systems = report.get("systems")
    for system in systems if isinstance(systems, list) else []:
        values = {**_part(system, "metrics"), **{name: system[name] for name in _LOSSES if system.get(name)}}
        for name, value in values.items():
            if isinstance(value, Mapping):
                found[f"{system.get('name', '')}.{name}"] = value
    return found


def _range(measure: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = measure.get("low"), measure.get("high")
    return (float(low), float(high)) if low is not None and high is not None else None


def _metrics(report_a: Mapping[str, Any], report_b: Mapping[str, Any]) -> list[Difference]:
    left, right = _measures(report_a), _measures(report_b)
    lines = []
    for name in dict.fromkeys([*left, *right]):
        a, b = left.get(name, {}), right.get(name, {})
        plain = _line("metrics", name, a.get("value"), b.get("value"))
        lines.append(Difference("metrics", name, plain.a, plain.b, plain.difference, _range(a), _range(b)))
    return lines


def _warnings(report_a: Mapping[str, Any], report_b: Mapping[str, Any]) -> list[str]:
    found = []
    if report_a.get("task") != report_b.get("task"):
        found.append("the tasks differ: their metrics measure different things")
    held_out = [_held_out(report) for report in (report_a, report_b)]
    if held_out[0] != held_out[1]:
        found.append("the held-out rows differ: differences of metrics and losses are not due to training alone")
    if _part(report_a, "model").get("name") != _part(report_b, "model").get("name"):
        found.append("the base models differ: losses and perplexities a token are not comparable across tokenizers")
    return found


def _held_out(report: Mapping[str, Any]) -> Any:
    """What tells the held-out rows apart: file hashes, how the rows were split off, and how many were used."""
    data = _part(report, "data")
    side = _part(data, "validation")
    files = side.get("files")
    hashes = [item.get("sha256") for item in files if isinstance(item, Mapping)] if isinstance(files, list) else []
    return hashes, data.get("split"), side.get("used_rows")
