"""Says at the end of a run how long each part of the suite took against its budget, and which tests were slowest.

A part is a folder directly under tests/. Going over a budget is told in a line, and fails nothing: machines differ,
and a slow day is no fault. Who makes a part slower than its budget speeds it up, or marks its slowest tests ``slow``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

BUDGET_SECONDS = {"unit": 150, "contract": 90, "parity": 60, "invariant": 90, "integration": 240}
SLOWEST = 10

_seconds: dict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: Any) -> None:
    """Add up set-up, call and tear-down of each test."""
    _seconds[report.nodeid] += report.duration


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print the table."""
    if config.option.collectonly or not _seconds:
        return
    by_part: dict[str, float] = defaultdict(float)
    for name, seconds in _seconds.items():
        by_part[part_of(name)] += seconds
    terminalreporter.section("seconds by part of the suite, and the slowest tests")
    for part in sorted(by_part):
        budget = BUDGET_SECONDS.get(part)
        line = f"{part:12} {by_part[part]:7.1f} s" + (f" of {budget} s" if budget else "")
        over = budget is not None and by_part[part] > budget and not runs_slow_tests(config)
        terminalreporter.write_line(f"{line}  WARNING: over its budget" if over else line, yellow=over)
    for name in sorted(_seconds, key=_seconds.__getitem__, reverse=True)[:SLOWEST]:
        terminalreporter.write_line(f"  {_seconds[name]:6.1f} s  {name}")


def part_of(test_name: str) -> str:
    """The folder directly under tests/ that a test lies in."""
    parts = Path(test_name.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


def runs_slow_tests(config: Any) -> bool:
    """The budgets are those of the fast suite."""
    return "not slow" not in config.option.markexpr
