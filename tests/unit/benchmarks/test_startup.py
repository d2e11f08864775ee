"""Where the time goes before a run's first step, as the benchmark of start-up tells it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.startup import parts_of_start
from tunesmith.runs.events import Event

STARTED = 1_700_000_000.0


def event(seconds: float, type: str, **data: Any) -> Event:  # noqa: A002
    """An event so long after the command."""
    return Event(1, 1, datetime.fromtimestamp(STARTED + seconds, UTC).isoformat(), type, None, data)


def test_measuring_is_told_apart_and_taken_off():
    events = [
        event(5.0, "status", state="started"),
        event(5.5, "progress", what="tokens"),
        event(7.0, "status", state="evaluating_base"),
        event(20.0, "progress", what="answers"),
        event(47.0, "progress", what="answers"),
        event(47.5, "status", state="training"),
        event(49.0, "step"),
        event(60.0, "progress", what="answers"),
        event(61.0, "step"),
    ]
    assert parts_of_start(events, STARTED) == {
        "seconds: to the worker's first word": pytest.approx(5.0),
        "seconds: reading, tokens, audit, values, model": pytest.approx(2.0),
        "seconds: measuring": pytest.approx(40.0),
        "seconds: adapters and the first step": pytest.approx(2.0),
        "seconds: to the first step, measuring included": pytest.approx(49.0),
        "seconds: to the first step, without measuring": pytest.approx(9.0),
    }
