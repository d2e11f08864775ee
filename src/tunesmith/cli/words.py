"""Numbers in words for the terminal, as short as they can be without lying."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "-"


def number(value: Any, digits: int = 4) -> str:
    """A number to some significant digits; anything else as it is."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.{digits - 1}e}"


def storage(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that say something; whole numbers stay whole."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.5 and isinstance(seconds, float) else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(number_: int, one: str, many: str | None = None) -> str:
    """A count with its noun: ``1 row``, ``2,000 rows``."""
    return f"{number_:,} {one if number_ == 1 else many or one + 's'}"


def scaled(value: float | None) -> str:
    """A large count in the units that models are measured in: ``134.5 M``."""
    if value is None:
        return NOTHING
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        # Three digits are shown, so what would round to 1,000 of a unit is one of the next.
        if value >= 0.9995 * size:
            return f"{value / size:.{0 if value >= 99.95 * size else 1 if value >= 9.995 * size else 2}f} {unit}"
    return f"{value:g}"
