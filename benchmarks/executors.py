"""What an executor adds to a training: seconds from the submission to the worker's first word and to its first step.

    python -m benchmarks.executors [--executor train local ray kubernetes] [--rounds 3]

Executors are reached as the contract suite reaches them (tests/executor_cases.py): real clusters and servers on this
machine. ``train`` is the plain command's way, with which the others are compared; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import ROOT, conditions, host_class, keep, print_table
from tunesmith.api import train
from tunesmith.jobs.submitted import find_job, follow
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.load import parse_recipe
from tunesmith.runs.events import Event, read_events
from tunesmith.samples import sample_folder

sys.path.insert(0, str(ROOT / "tests"))
from executor_cases import REACHED

PLAIN = "train"


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Seconds that executors add to a training.")
    parser.add_argument("--executor", nargs="*", default=[PLAIN, *REACHED], choices=[PLAIN, *REACHED])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    before = conditions()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.executor}
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        for number in range(options.rounds):
            for name in options.executor:
                place = Path(scratch) / f"{name}-{number}"
                place.mkdir()
                found[name].append(measured(name, place, options.model))
    table = {
        f"{name}: seconds to {what}": f"{statistics.median(one[what] for one in rounds):.1f}"
        for name, rounds in found.items()
        for what in ("first word", "first step", "end")
    }
    print_table(table)
    path = keep("executors", {"measured": found, "conditions": before, "host_class": host_class()})
    print(f"kept in {path.name}")


def measured(name: str, place: Path, model: str) -> dict[str, float]:
    """One training by one executor, on the sample that Tunesmith brings."""
    recipe: dict[str, Any] = {
        "model": model,
        "data": {"train": str(sample_folder("support_routing") / "train.jsonl")},
        "train": {"budget": "10s"},
        "evaluate": {"rows": 2, "samples": 1, "few_shot": 0, "max_new_tokens": 8},
    }
    if name == PLAIN:
        return _seconds(lambda: _events_of(train(recipe, name="one", output=place / "runs").path))
    with pytest.MonkeyPatch.context() as patch, REACHED[name](place, patch) as reached:
        parsed = parse_recipe({**recipe, "executor": reached.settings}, "the benchmark")
        runs = place / "runs"
        return _seconds(
            lambda: list(follow(find_job(runs, submit(parsed, runs, Asked("one", None, reached.storage)).name)))
        )


def _events_of(run: Path) -> list[Event]:
    return list(read_events(run / "events.jsonl"))


def _seconds(work: Callable[[], list[Event]]) -> dict[str, float]:
    started = time.time()
    events = work()
    first_step = next(event for event in events if event.type == "step")
    return {
        "first word": datetime.fromisoformat(events[0].time).timestamp() - started,
        "first step": datetime.fromisoformat(first_step.time).timestamp() - started,
        "end": time.time() - started,
    }


if __name__ == "__main__":
    main()
