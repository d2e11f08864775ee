"""Numbers in words: each with its unit, as short as it can be without lying."""

from __future__ import annotations

import math

from tunesmith.evaluation.metrics.table import METRICS

NOTHING = "–"
CELL_CHARACTERS = 600
SAMPLE_CHARACTERS = 4000


def clip(text: str, characters: int = CELL_CHARACTERS) -> str:
    """The text, or its beginning and how much more of it report.json holds."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text) - characters:,} more characters in report.json)"


def whole(value: float | None) -> str:
    """An integer with separators of thousands."""
    return NOTHING if value is None else f"{value:,.0f}"


def significant(value: float | None, digits: int = 4) -> str:
    """A number to some significant digits, never in a form that hides a small one."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{places}f}"
    return f"{value:.{digits - 1}e}"


def storage(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that say something."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def share(part: float | None, total: float | None) -> str:
    """Part of a total in percent."""
    if part is None or not total:
        return NOTHING
    percent = 100 * part / total
    return f"{percent:.0f} %" if percent >= 99.5 else f"{percent:.2g} %"


def metric_label(name: str) -> str:
    """The metric's name for people."""
    return METRICS[name].label if name in METRICS else name


def metric_value(name: str, value: float | None) -> str:
    """A metric's value in its unit; a metric that the table does not know is a bare number."""
    if value is None or not math.isfinite(value):
        return "not finite"
    unit = METRICS[name].unit if name in METRICS else None
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "points":
        return f"{value:.1f}"
    if unit == "ratio":
        return significant(value, 4)
    return f"{value:.3f}"


def metric_range(name: str, low: float | None, high: float | None) -> str:
    """An interval in the metric's unit, or nothing."""
    if low is None and high is None:
        return ""
    return f"{metric_value(name, low).removesuffix(' %')} to {metric_value(name, high)}"


def metric_change(name: str, before: float | None, after: float | None) -> str:
    """How a metric moved, with its sign."""
    if before is None or after is None:
        return NOTHING
    unit = METRICS[name].unit if name in METRICS else None
    change = after - before
    if unit == "share":
        return f"{100 * change:+.1f} points"
    return f"{change:+.1f}" if unit in ("points", "ratio") else f"{change:+.3f}"
