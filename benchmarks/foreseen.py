"""How far plans are from the truth, in words: the aims, and what is said of many plans together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

# The aims: errors of the median plan, and the share of the truth that a plan of memory may fall short of it.
MEMORY_AIM, TIME_AIM, MEMORY_UNDER = 0.10, 0.15, 0.25


def ratio_text(planned: float, truth: float | None) -> str:
    """The truth over the plan, by two digits."""
    return "" if truth is None else f"{truth / planned:.2f}"


def summary_text(
    what: str,
    pairs: Sequence[tuple[float, float]],
    aim: float,
    *,
    most_under: float | None = None,
    truth: str = "measured",
) -> str:
    """The median error with its aim, the extremes, and the plan that fell shortest.

    Args:
        what: What was planned.
        pairs: Plan and truth.
        aim: The largest median error that is wanted, as a share of the truth.
        most_under: The share of the truth that no plan may fall short by; None where that is no aim.
        truth: What the truth is called.
    """
    if not pairs:
        return f"{what}: no plan could be held against a number"
    median = statistics.median(abs(planned / true - 1) for planned, true in pairs)
    ratios = [true / planned for planned, true in pairs]
    under = max(0.0, *(1 - planned / true for planned, true in pairs))
    limit = "" if most_under is None else f" (aim: never more than {most_under:.0%}, {_kept(under <= most_under)})"
    count = "1 plan" if len(pairs) == 1 else f"{len(pairs)} plans"
    return (
        f"{what}, {count}: median error {median:.0%} (aim {aim:.0%}, {_kept(median <= aim)}); {truth} over "
        f"planned {min(ratios):.2f} to {max(ratios):.2f}; worst under-estimate {under:.0%}{limit}."
    )


def _kept(is_kept: bool) -> str:
    return "kept" if is_kept else "missed"
