"""Where the time goes before a run's first step, as the benchmark of start-up tells it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.startup import first_step_seconds, parts_of_start
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


@pytest.mark.slow
def test_the_clock_starts_with_the_command_that_a_user_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "late"
    late.mkdir()
    # The program itself starts two seconds late, and nothing else.
    (late / "sitecustomize.py").write_text(
        "import sys, time\ntime.sleep(2 * any(word.endswith('bin/tunesmith') for word in sys.orig_argv))\n"
    )
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    model = str(tiny_model_folder("llama", tmp_path / "model"))
    first_word = "second run, all cached: seconds: to the worker's first word"
    at_once = first_step_seconds(model)
    assert len(at_once) == 12
    monkeypatch.setenv("PYTHONPATH", str(late))
    assert first_step_seconds(model)[first_word] > at_once[first_word] + 1
    assert at_once[first_word] > 0
