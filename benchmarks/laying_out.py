"""Laying out the rows of a step: what shared beginnings save, what more levels could, and how long it takes.

    python -m benchmarks.laying_out --data-folder FOLDER [--workloads NAME ...]

Nothing is trained. Tokens are counted over the first steps of each workload, with rows at random and grouped. What a
tree of any depth would compute is a bound for every number of levels: each different beginning of the rows once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestant import open_run, steps_of
from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_workload_options
from benchmarks.workloads import WORKLOADS, Workload
from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack, TokenRow

SAMPLERS = ("random", "grouped")
STEPS = 40
COLUMNS = (
    "workload",
    "two levels save of the tokens",
    "any depth, in the same packs",
    "any depth, all rows in one pack",
    "so a step computes less by at most",
    "laying out, ms a step",
)
HEAD = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def main() -> None:
    """Measure, print and keep."""
    options = read_workload_options("What shared beginnings save.", {"samplers": SAMPLERS}, WORKLOADS)
    before = conditions()
    measured = {}
    print(*HEAD, sep="\n")
    for name in options.workloads:
        for sampler in options.samplers:
            if sampler == "grouped" and WORKLOADS[name].is_pairs:
                continue
            found = measured[f"{name}, {sampler}"] = measure(WORKLOADS[name], sampler, options)
            print(table_line(f"{name}, {sampler}", found), flush=True)
    if not options.no_keep:
        result = {"measured": measured, "steps": STEPS, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('laying-out', result).name}")


def table_line(name: str, found: Mapping[str, float]) -> str:
    """What was found of one workload, as a line of Markdown."""
    saved = (found["tokens"] - found[key] for key in ("two_levels", "any_depth", "any_depth_one_pack"))
    cells = [f"{count / found['tokens']:.2%}" for count in saved]
    shorter = 1 - found["any_depth"] / found["two_levels"]
    cells += [f"{shorter:.1%}", f"{found['milliseconds']:.2f}"]
    return f"| {' | '.join([name, *cells])} |"


def measure(workload: Workload, sampler: str, options: argparse.Namespace) -> dict[str, float]:
    """Tokens of the rows of all steps, and of what is computed; processor time of one step's packs and tensors."""
    recipe = workload.full_recipe(Path(options.data_folder))
    recipe["train"] |= {"sampler": sampler}
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        job = {"recipe": recipe, "rows_per_step": workload.rows_per_step, "scratch": scratch}
        run = open_run(job)
        rows, plan = run.prepared.train.items, steps_of(job, run, run.prepared.train.items)
        steps = [
            [(item, row) for item in plan.rows_of(step).tolist() for row in rows.item(item)]
            for step in range(min(STEPS, plan.steps_per_epoch))
        ]
        bound = run.resolved.tokens_per_micro_batch
        began = time.process_time()
        packs = [lay_out(step, tokens_per_micro_batch=bound) for step in steps]
        for pack in (pack for of_step in packs for pack in of_step):
            as_tensors(pack)
        seconds = time.process_time() - began
        return {
            "tokens": sum(len(row.token_ids_T) for step in steps for _, row in step),
            "two_levels": sum(pack.tokens for of_step in packs for pack in of_step),
            "any_depth": sum(
                different_beginnings(row for item, row in step if item in set(pack.rows))
                for step, of_step in zip(steps, packs, strict=True)
                for pack in of_step
            ),
            "any_depth_one_pack": sum(different_beginnings(row for _, row in step) for step in steps),
            "milliseconds": 1e3 * seconds / len(steps),
        }


def different_beginnings(rows: Iterable[TokenRow]) -> int:
    """Tokens that a tree of any depth computes for some rows: each beginning that rows have in common once.

    Shared is at most what comes before a row's first trained token, and never all of a row.
    """
    several = list(rows)
    keys = sorted(_sharable(row) for row in several)
    return sum(len(row.token_ids_T) for row in several) - sum(_common(one, two) for one, two in pairwise(keys))


def as_tensors(pack: Pack) -> list[torch.Tensor]:
    """What a model on a processor is given of a pack."""
    arrays: list[Any] = [pack.token_ids_T, pack.position_ids_T, pack.label_positions_L, pack.labels_L]
    return [torch.tensor(array) for array in arrays]


def _sharable(row: TokenRow) -> list[int]:
    first_trained = int(row.trained_T.argmax()) if row.trained_T.any() else len(row.trained_T)
    shared: list[int] = row.token_ids_T[: min(first_trained, len(row.token_ids_T) - 1)].tolist()
    return shared


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens both begin with."""
    at = 0
    while at < min(len(one), len(two)) and one[at] == two[at]:
        at += 1
    return at


if __name__ == "__main__":
    main()
