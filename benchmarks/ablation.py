"""What each lever of the engine is worth: the same training without it, interleaved over several rounds.

    python -m benchmarks.ablation --data-folder FOLDER [--workloads NAME ...] [--levers NAME ...] [--rounds 2]

One row a lever. The result is printed as Markdown and kept under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.comparison import rates
from benchmarks.levers import LEVERS
from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_step_options
from benchmarks.training import run_own
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Measure, print and keep."""
    options = read_step_options(
        "Training without one lever at a time.", {"levers": LEVERS}, ("conversations", "instruction-16"), 20
    )
    before = conditions()
    measured = {name: measure(name, options) for name in options.workloads}
    if not options.no_keep:
        result = {"measured": measured, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('ablation', result).name}")


def measure(workload: str, options: argparse.Namespace) -> dict[str, Any]:
    """All levers on one workload."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.levers}
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        for number in range(options.rounds):
            for at, name in enumerate(options.levers):
                if LEVERS[name].missing is not None:
                    runs[name].append({"error": [f"{LEVERS[name].missing} is not installed"]})
                    continue
                folder = Path(scratch) / f"{at}-{number}"
                done = run_own(WORKLOADS[workload], options, folder, lever=name)
                runs[name].append({key: value for key, value in done.items() if key != "model"})
    found = {name: rates(own) for name, own in runs.items()}
    whole = found.get("all levers")
    print(f"\n{workload}: {WORKLOADS[workload].about}\n")
    print("| without | tokens/s | share of all levers' speed | peak memory |\n" + "|---" * 4 + "|")
    for name, own in found.items():
        if own is None:
            print(f"| {name} | failed: {' '.join(runs[name][0].get('error', []))[:300]} |")
            continue
        share = f"{own['tokens_per_second'] / whole['tokens_per_second']:.2f}" if whole else ""
        print(f"| {name} | {own['tokens_per_second']:.0f} | {share} | {own['peak_memory_gib']:.1f} GiB |", flush=True)
    return {"runs": runs, "rates": found}


if __name__ == "__main__":
    main()
