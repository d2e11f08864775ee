"""The same training by one process and shared by two under each strategy: tokens a second, and memory of each process.

    python -m benchmarks.strategies --data-folder FOLDER [--only NAME ...] [--budget "24k tokens"]

Whole models train (technique full) with activation checkpointing, so that weights, gradients and moments are there to
be cut, and activations do not hide it; rows are GSM8K's. On a machine without a GPU two processes share the cores that
one has alone, so the best that can come of it is the same speed. Each row is a run of `tunesmith train`, one after the
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_options
from benchmarks.techniques import run_train

SHARED: Mapping[str, tuple[str, ...]] = {
    "single": (),
    "ddp, 2 processes": ("strategy=ddp", "train.devices=2"),
    "zero1, 2 processes": ("strategy=zero1", "train.devices=2"),
    "zero2, 2 processes": ("strategy=zero2", "train.devices=2"),
    "zero3, 2 processes": ("strategy=zero3", "train.devices=2"),
    "fsdp, 2 processes": ("strategy=fsdp", "train.devices=2"),
}
_SETTINGS = (
    "model=smollm2-135m-instruct",
    "technique=full",
    "train.tokens_per_step=2048",
    "train.precision=float32",
    "train.activation_checkpointing=true",
    "train.tokens_per_micro_batch=512",
    "evaluate.rows=4",
    "evaluate.few_shot=0",
    "evaluate.max_new_tokens=4",
)


def main() -> None:
    """Run, print and keep."""
    options = read_options("One training by one process and shared by two.", SHARED, "24k tokens")
    before = conditions()
    measured: dict[str, Any] = {}
    print("| strategy | steps | loss after | tokens/s | share of one process's speed | peak memory of each |")
    print("|---" * 6 + "|")
    for name in options.only:
        data = f"data.train={options.data_folder / 'math/gsm8k_train.jsonl'}"
        measured[name] = run_train([data, *_SETTINGS, *SHARED[name], *options.set], options.budget)
        print(table_row(measured[name], measured.get("single")), flush=True)
    if not options.no_keep:
        result = {"measured": measured, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('strategies', result).name}")


def table_row(found: Mapping[str, Any], single: Mapping[str, Any] | None) -> str:
    """One run as a row of Markdown."""
    if "error" in found:
        return f"| failed: {' '.join(found['error'])[:300]} |"
    speed = found["tokens_per_second"]
    share = f"{speed / single['tokens_per_second']:.0%}" if single and "error" not in single else ""
    memory = found["rank_memory_bytes"] or [found["peak_memory_bytes"]]
    sizes = ", ".join(f"{one / 2**30:.1f} GiB" for one in memory)
    loss = found["losses"]["tuned"]["value"]
    name = "single" if len(memory) == 1 else found["command"].split("strategy=")[1].split()[0]
    return f"| {name} | {found['steps']} | {loss:.4f} | {speed:.0f} | {share} | {sizes} |"


if __name__ == "__main__":
    main()
