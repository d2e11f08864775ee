"""Tokens a second and peak memory of the main job, measured through the public door.

    python -m benchmarks.main_job [--data FILE] [--seconds 120] [--model ...] [key=value ...]

Trains in a run folder that is thrown away, and reads what the run said of itself: events.jsonl for the steps, the
report for tokens and cost. The first steps are left out of the rates, since caches are cold and memory still grows.
The result is printed and kept under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions, host_class, keep, print_table
from tunesmith.api import train
from tunesmith.recipe.load import apply_overrides
from tunesmith.runs.events import Event, read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.samples import sample_folder

WARM_UP_STEPS = 2


def main() -> None:
    """Measure once, print and keep."""
    parser = argparse.ArgumentParser(description="Tokens a second and peak memory of the main job.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", help="training data (default: the bundled sample)")
    parser.add_argument("--seconds", type=int, default=120, help="time for the training")
    parser.add_argument("--no-keep", action="store_true", help="print only")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="other values of the recipe")
    options = parser.parse_args()
    data = options.data or str(sample_folder("support_routing") / "train.jsonl")
    recipe = apply_overrides(
        {
            "model": options.model,
            "data": {"train": data},
            "technique": "lora",
            "train": {"budget": f"{options.seconds}s", "epochs": 1000},
            # What is measured is training: as little as may be of what comes after it.
            "evaluate": {"rows": 2, "samples": 1, "few_shot": 0, "max_new_tokens": 8},
        },
        options.settings,
    )
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        run = train(recipe, name="benchmark", output=scratch)
        measured = measure(RunFolder(run.path), run.report)
    named = Path(data).name if options.data else "sample support_routing"
    result = {"job": {"model": options.model, "data": named, "settings": options.settings}, "measured": measured}
    print_table({"model": options.model, "data": named, **measured, **before})
    if not options.no_keep:
        path = keep("main-job", {**result, "conditions": before, "host_class": host_class()})
        print(f"kept in {path.name}")


def measure(run: RunFolder, report: dict[str, Any]) -> dict[str, Any]:
    """Rates over the steps after the warm-up, and what the whole run took."""
    steps = [event for event in read_events(run.events) if event.type == "step"]
    warm = steps[min(WARM_UP_STEPS, len(steps) - 1) :]
    seconds = _total(warm, "seconds")
    train_side = report["data"]["train"]
    mean_row_tokens = train_side["tokens"] / train_side["used_rows"]
    return {
        "tokens_per_second": _total(warm, "tokens") / seconds,
        "trained_tokens_per_second": _total(warm, "trained_tokens") / seconds,
        "rows_per_second": _total(warm, "tokens") / mean_row_tokens / seconds,
        "mean_row_tokens": mean_row_tokens,
        "steps_measured": len(warm),
        "first_step_seconds": float(steps[0].data["seconds"]),
        "peak_memory_gib": report["cost"]["peak_memory_bytes"] / 2**30,
        "tokens_of_rows": report["cost"]["tokens"],
        "trained_parameters": report["cost"]["trained_parameters"],
    }


def _total(events: list[Event], key: str) -> float:
    return float(sum(event.data[key] for event in events))


if __name__ == "__main__":
    main()
