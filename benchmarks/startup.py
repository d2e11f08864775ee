"""How long one waits before anything happens: ``tunesmith --help``, and the first training step.

    python -m benchmarks.startup [--no-train]

The best of several starts is told for ``--help``, since the others measure what else the machine does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions, host_class, keep, print_table
from tunesmith.api import train
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.samples import sample_folder

STARTS = 7
COMMANDS = (["--help"], ["train", "--help"], ["runs", "list"], ["models", "list"])


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Seconds until something happens.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--no-train", action="store_true", help="measure the commands only")
    options = parser.parse_args()
    before = conditions()
    measured: dict[str, Any] = {f"seconds: tunesmith {' '.join(words)}": command_seconds(words) for words in COMMANDS}
    if not options.no_train:
        measured |= first_step_seconds(options.model)
    print_table({name: f"{value:.3f}" if isinstance(value, float) else value for name, value in measured.items()})
    path = keep("startup", {"measured": measured, "conditions": before, "host_class": host_class()})
    print(f"kept in {path.name}")


def command_seconds(words: list[str]) -> float:
    """The shortest of several starts of a command."""
    program = Path(sys.executable).with_name("tunesmith")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(STARTS):
            started = time.perf_counter()
            subprocess.run([program, *words], cwd=folder, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
    return min(times)


def first_step_seconds(model: str) -> dict[str, float]:
    """Seconds from the call of ``tunesmith.train`` to the worker's first word, and to the end of its first step."""
    recipe = {
        "model": model,
        "data": {"train": str(sample_folder("support_routing") / "train.jsonl")},
        "train": {"budget": "10s"},
        "evaluate": {"rows": 2, "samples": 1, "few_shot": 0, "max_new_tokens": 8},
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        started = time.time()
        run = train(recipe, name="benchmark", output=scratch)
        events = list(read_events(RunFolder(run.path).events))
    first_step = next(event for event in events if event.type == "step")
    return {
        "seconds: first event": datetime.fromisoformat(events[0].time).timestamp() - started,
        "seconds: first step, base evaluation included": datetime.fromisoformat(first_step.time).timestamp() - started,
    }


if __name__ == "__main__":
    main()
