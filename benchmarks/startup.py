"""How long one waits before anything happens: ``tunesmith --help``, a plan, and the first training step.

    python -m benchmarks.startup [--no-train] [--no-keep]

The best of several starts of a command is told, since the others measure what else the machine does. A start that is
not measured comes before them, so that a plan finds its rows counted: the aim for it is a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions, host_class, keep, print_table
from tunesmith.runs.events import Event, read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.samples import sample_folder

STARTS = 7
PROGRAM = str(Path(sys.executable).with_name("tunesmith"))
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
# What each run measures before its first step.
MEASURED = {"rows": 8, "samples": 1, "max_new_tokens": 16}


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Seconds until something happens.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--no-train", action="store_true", help="measure the commands only")
    parser.add_argument("--no-keep", action="store_true", help="print only")
    options = parser.parse_args()
    before = conditions()
    measured: dict[str, Any] = {}
    for name, words in COMMANDS.items():
        told = [*words, "--model", options.model] if words[0] == "plan" and "--model" not in words else words
        measured[f"seconds: {name}"] = command_seconds(told)
    if not options.no_train:
        measured |= first_step_seconds(options.model)
    print_table({name: f"{value:.3f}" if isinstance(value, float) else value for name, value in measured.items()})
    if not options.no_keep:
        result = {"measured": measured, "evaluate": MEASURED, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('startup', result).name}")


def command_seconds(words: list[str]) -> float:
    """The shortest of several starts of a command, behind one that fills what it keeps for the next."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + STARTS):
            started = time.perf_counter()
            subprocess.run([PROGRAM, *words], cwd=folder, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
    return min(times[1:])


def first_step_seconds(model: str) -> dict[str, Any]:
    """Seconds to the first step of two runs of one recipe, the first of which may still fill caches."""
    recipe = {
        "model": model,
        "data": {"train": SAMPLE},
        # One step is enough; a budget of time would be tried out first.
        "train": {"budget": "1 tokens"},
        "evaluate": MEASURED,
    }
    found = {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        path = Path(scratch) / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        for name in ("first run", "second run, all cached"):
            run = RunFolder(Path(scratch) / f"benchmark-{len(found)}")
            command = [PROGRAM, "train", path, "--name", run.name, "--output", scratch]
            # From the command as it is typed: what the program imports before it starts a worker is waited for too.
            started = time.time()
            subprocess.run(command, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            events = list(read_events(run.events))
            found |= {f"{name}: {what}": seconds for what, seconds in parts_of_start(events, started).items()}
    return found


def parts_of_start(events: Sequence[Event], started: float) -> dict[str, float]:
    """Seconds from ``started`` (Unix time) to a worker's first word and to the end of its first step, and between.

    What is measured before the first step (base, and base with examples) is told apart and taken off: it is as long as
    the recipe has it, and no part of getting ready. Its end is the last progress before training.
    """
    times = [datetime.fromisoformat(event.time).timestamp() - started for event in events]
    states = {event.data["state"]: at for at, event in enumerate(events) if event.type == "status"}
    step = next(at for at, event in enumerate(events) if event.type == "step")
    told = [at for at in range(states["evaluating_base"], states["training"]) if events[at].type == "progress"]
    measured = max(told, default=states["evaluating_base"])
    measuring = times[measured] - times[states["evaluating_base"]]
    return {
        "seconds: to the worker's first word": times[0],
        "seconds: reading, tokens, audit, values, model": times[states["evaluating_base"]] - times[0],
        "seconds: measuring": measuring,
        "seconds: adapters and the first step": times[step] - times[measured],
        "seconds: to the first step, measuring included": times[step],
        "seconds: to the first step, without measuring": times[step] - measuring,
    }


if __name__ == "__main__":
    main()
