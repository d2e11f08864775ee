"""Plans held against the truth: a grid of short trainings here, and published figures of trainings on GPUs.

    python -m benchmarks.planning --data-folder FOLDER [--only NAME ...] [--budget "4k tokens"]

Each row is a run of `tunesmith train` on GSM8K with the starter model, whose report has what was planned and what was
measured. What this machine has learned from earlier runs is put aside, so that the plain formulas are judged. Figures
of others (benchmarks/published.yaml, each with its source) are held against plans for their hardware; they come from
other programs, which keep other things, so they say whether the plan is of the right size.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_options
from benchmarks.techniques import run_train
from tunesmith.catalog.entries import find_entry
from tunesmith.planner.calibration import calibration_path
from tunesmith.planner.hardware import load_hardware
from tunesmith.planner.plan import make_plan
from tunesmith.planner.shape import shape_of_entry
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.resolve import resolve

_PUBLISHED = Path(__file__).with_name("published.yaml")
_SETTINGS = (
    "model=smollm2-135m-instruct",
    "train.precision=float32",
    "train.tokens_per_step=2048",
    "evaluate.rows=4",
    "evaluate.few_shot=0",
    "evaluate.max_new_tokens=4",
)
_AGAIN = "train.activation_checkpointing=true"


def _grid() -> Iterator[tuple[str, tuple[str, ...]]]:
    for technique in ("lora", "dora", "qlora", "full", "freeze"):
        for tokens in (512, 1024, 2048):
            packs = f"train.tokens_per_micro_batch={tokens}"
            yield f"{technique}, packs of {tokens}", (f"technique={technique}", packs, _NOT_AGAIN)
    for technique in ("lora", "full"):
        settings = (f"technique={technique}", "train.tokens_per_micro_batch=1024", _AGAIN)
        yield f"{technique}, packs of 1024, computed again", settings


_NOT_AGAIN = "train.activation_checkpointing=false"
GRID: Mapping[str, tuple[str, ...]] = dict(_grid())


def main() -> None:
    """Run, print and keep."""
    options = read_options("Plans against the truth.", GRID, "4k tokens")
    before = conditions()
    measured: dict[str, Any] = {}
    data = f"data.train={options.data_folder / 'math/gsm8k_train.jsonl'}"
    print("| run | memory planned | measured | ratio | a step planned | measured | ratio |\n" + "|---" * 7 + "|")
    with _plain_formulas() as forget:
        for name in options.only:
            forget()
            measured[name] = run_train([data, *_SETTINGS, *GRID[name], *options.set], options.budget)
            print(table_row(name, measured[name]), flush=True)
    print(f"\n{errors(measured)}\n")
    published = list(map(_published_row, yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))))
    print(
        "| published | memory planned | published | ratio | tokens/s planned | published | ratio |\n" + "|---" * 7 + "|"
    )
    for row in published:
        print(_published_line(row))
    if not options.no_keep:
        result = {
            "measured": measured,
            "published": published,
            "conditions": before,
            "host_class": host_class(),
        }
        print(f"kept in {keep('planning', result).name}")


@contextmanager
def _plain_formulas() -> Iterator[Any]:
    """What this machine has learned lies aside for the block; the function forgets what was learned meanwhile."""
    path = calibration_path()
    aside = path.with_suffix(".aside")
    if path.exists():
        path.rename(aside)

    def forget() -> None:
        path.unlink(missing_ok=True)

    try:
        yield forget
    finally:
        forget()
        if aside.exists():
            aside.rename(path)


def table_row(name: str, found: Mapping[str, Any]) -> str:
    """One run as a row of Markdown."""
    if "error" in found:
        return f"| {name} | failed: {' '.join(found['error'])[:300]} |"
    memory, step = _foreseen(found, "peak_memory_bytes"), _foreseen(found, "seconds_a_step")
    return (
        f"| {name} | {memory[0] / 2**30:.2f} GiB | {memory[1] / 2**30:.2f} GiB | {memory[1] / memory[0]:.2f} "
        f"| {step[0]:.2f} s | {step[1]:.2f} s | {step[1] / step[0]:.2f} |"
    )


def errors(measured: Mapping[str, Any]) -> str:
    """Medians of the errors, and the worst of memory that was planned too small."""
    found = [one for one in measured.values() if "error" not in one]
    texts = []
    for what, name in (("peak_memory_bytes", "memory"), ("seconds_a_step", "time of a step")):
        ratios = [truth / planned for planned, truth in (_foreseen(one, what) for one in found)]
        median = statistics.median(abs(1 - 1 / ratio) for ratio in ratios)
        texts.append(f"{name}: median error {median:.0%}, measured over planned {min(ratios):.2f} to {max(ratios):.2f}")
    return "; ".join(texts)


def _foreseen(found: Mapping[str, Any], what: str) -> tuple[float, float]:
    (one,) = [row for row in found["plan"] if row["what"] == what]
    return float(one["predicted"]), float(one["measured"])


def _published_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A published figure beside the plan for the same training."""
    entry = find_entry(row["model"])
    assert entry is not None
    shape, hardware = shape_of_entry(entry), load_hardware(row["hardware"])
    tokens = row["pack_tokens"]
    data = DataFacts(
        task="text", shape="text", rows=1000, validation_rows=10, tokens=1000 * tokens, trained_tokens=1000 * tokens,
        longest_row=tokens,
    )  # fmt: skip
    mapping = {"model": row["model"], "data": {"train": "rows.jsonl"}}
    recipe = parse_recipe(apply_overrides(mapping, row["settings"]))
    facts = shape.facts(has_chat_template=True)
    resolved = resolve(recipe, data, facts, hardware.host_facts())
    packs = row.get("packs", 1)
    resolved = replace(resolved, tokens_per_micro_batch=tokens * packs, tokens_per_step=tokens * packs)
    plan = make_plan(shape, resolved, replace(data, longest_row=tokens), hardware)
    return {
        **row,
        "planned_memory_bytes": plan.memory.peak,
        "planned_tokens_per_second": tokens * packs / plan.time.step_seconds,
    }


def _published_line(row: Mapping[str, Any]) -> str:
    memory, planned = row["memory_gib"], row["planned_memory_bytes"] / 2**30
    speed, fast = row.get("tokens_per_second"), row["planned_tokens_per_second"]
    told = f"{fast:,.0f} | {speed:,.0f} | {speed / fast:.2f}" if speed else f"{fast:,.0f} | | "
    return f"| {row['name']} | {planned:.1f} GiB | {memory:.1f} GiB | {memory / planned:.2f} | {told} |"


if __name__ == "__main__":
    main()
