"""How long one waits before anything happens: ``tunesmith --help``, a plan, and the first training step.

    python -m benchmarks.startup [--no-train]

The best of several starts of a command is told, since the others measure what else the machine does. A start that is
not measured comes before them, so that a plan finds its rows counted: the aim for it is a second.
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
SAMPLE = str(sample_folder("support_routing") / "train.jsonl")
COMMANDS = {
    "tunesmith --help": ["--help"],
    "tunesmith train --help": ["train", "--help"],
    "tunesmith runs list": ["runs", "list"],
    "tunesmith models list": ["models", "list"],
    "tunesmith plan, rows counted before": ["plan", "--data", SAMPLE],
    "tunesmith plan for another machine, tokens guessed": [
        *("plan", "--model", "llama-3.1-8b-instruct", "--data", SAMPLE, "--hardware", "a100-80gb")
    ],
}


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Seconds until something happens.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--no-train", action="store_true", help="measure the commands only")
    options = parser.parse_args()
    before = conditions()
    measured: dict[str, Any] = {}
    for name, words in COMMANDS.items():
        told = [*words, "--model", options.model] if words[0] == "plan" and "--model" not in words else words
        measured[f"seconds: {name}"] = command_seconds(told)
    if not options.no_train:
        measured |= first_step_seconds(options.model)
    print_table({name: f"{value:.3f}" if isinstance(value, float) else value for name, value in measured.items()})
    path = keep("startup", {"measured": measured, "conditions": before, "host_class": host_class()})
    print(f"kept in {path.name}")


def command_seconds(words: list[str]) -> float:
    """The shortest of several starts of a command, behind one that fills what it keeps for the next."""
    program = Path(sys.executable).with_name("tunesmith")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + STARTS):
            started = time.perf_counter()
            subprocess.run([program, *words], cwd=folder, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
    return min(times[1:])


def first_step_seconds(model: str) -> dict[str, float]:
    """Seconds from the call of ``tunesmith.train`` to the worker's first word, and to the end of its first step."""
    recipe = {
        "model": model,
        "data": {"train": SAMPLE},
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
