"""Budgets such as ``10m``, ``1h30m`` or ``2M tokens``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_TIME = re.compile(
    r"(?:(?P<hours>\d+(?:\.\d+)?)h)?(?:(?P<minutes>\d+(?:\.\d+)?)m)?(?:(?P<seconds>\d+(?:\.\d+)?)s)?", re.ASCII
)
_TOKENS = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kKmM]?)\s*tokens?", re.ASCII)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}
MOST_TOKENS = 10**15


@dataclass(frozen=True)
class Budget:
    """Either time for a whole run, or tokens to train on."""

    seconds: float | None = None
    tokens: int | None = None


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Raises:
        ValueError: The text is no budget, or nothing is left of it.
    """
    wanted = text.strip()
    time = _TIME.fullmatch(wanted)
    if wanted and time:
        hours, minutes, seconds = (float(time[part] or 0) for part in ("hours", "minutes", "seconds"))
        total = 3600 * hours + 60 * minutes + seconds
        if 0 < total < math.inf:
            return Budget(seconds=total)
    tokens = _TOKENS.fullmatch(wanted)
    if tokens:
        count = float(tokens["number"]) * _FACTORS[tokens["unit"].lower()]
        if 1 <= count < MOST_TOKENS:
            return Budget(tokens=round(count))
    raise ValueError("write a time such as 90s, 10m or 1h30m, or tokens such as 500k tokens or 2M tokens")
