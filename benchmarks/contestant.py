"""Our side of the training benchmark: one process, one job, one JSON object on the last line.

    python -m benchmarks.contestant job.json

The job names a recipe's parts and how many rows a step learns from, so that all sides learn from the same rows in the
same steps. With ``export`` nothing is trained: the rows are written in the order in which steps take them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.levers import LEVERS
from tunesmith.data.grouping import rows_that_begin_alike
from tunesmith.data.steps import StepPlan, plan_steps
from tunesmith.data.types import TokenSet
from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.engine.settings import TrainSettings
from tunesmith.engine.train import train
from tunesmith.models.attention import ATTENTION
from tunesmith.objectives.table import make_objective
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.prepare import prepare, resolve_run
from tunesmith.pipeline.run import Run, load_base, prepare_technique, train_settings
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.load import parse_recipe
from tunesmith.runs.control import Wish
from tunesmith.runs.events import open_events, read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.strategies.table import make_strategy
from tunesmith.techniques.table import make_technique


def main() -> None:
    """Do the job of the file that is named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lever = LEVERS[job["lever"]]
    if lever.patch is not None:
        lever.patch()
    run = open_run(job)
    rows = run.prepared.train.items
    steps = steps_of(job, run, rows)
    found = _export(Path(job["export"]), job, rows, steps) if "export" in job else _train(job, run, rows, steps)
    print(json.dumps({**found, "model": str(run.prepared.model.folder)}))


def open_run(job: dict[str, Any]) -> Run:
    """The run of the job's recipe, with its model found and its rows as tokens; nothing is loaded."""
    folder = RunFolder(Path(job["scratch"]))
    folder.path.mkdir(parents=True, exist_ok=True)
    events = open_events(folder.events)
    teller = Teller(events)
    recipe = parse_recipe(job["recipe"], "the benchmark")
    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), folder.path, teller)
    resolved = resolve_run(prepared)
    return Run(
        folder, prepared, resolved, teller, RunClock(folder.events, events.attempt), lambda: "continue", ATTENTION
    )


def steps_of(job: dict[str, Any], run: Run, rows: TokenSet) -> StepPlan:
    """Steps of a fixed number of rows, as the other sides take them; nearly so where rows belong together."""
    count = len(rows) - len(rows) % job["rows_per_step"]
    groups = None
    if run.resolved.sampler == "grouped":
        groups = np.unique(rows_that_begin_alike(rows)[:count], return_inverse=True)[1]
    return plan_steps(np.ones(count, dtype=np.int64), tokens_per_step=job["rows_per_step"], seed=0, group_of_B=groups)


def _settings(job: dict[str, Any], run: Run, rows: TokenSet) -> TrainSettings:
    _, settings = train_settings(run, rows, deadline_seconds=None)
    return replace(
        settings,
        **LEVERS[job["lever"]].settings,
        total_steps=job["steps"],
        learning_rate=job["learning_rate"],
        schedule="constant",
        warmup=0.0,
        deadline_seconds=None,
        validate_every_steps=None,
        checkpoint_every_steps=None,
    )


def _train(job: dict[str, Any], run: Run, rows: TokenSet, steps: StepPlan) -> dict[str, Any]:
    model = prepare_technique(run, load_base(run), rows)
    result = train(
        model,
        technique=make_technique(run.resolved.technique),
        objective=make_objective(run.resolved.objective),
        strategy=make_strategy(run.resolved.strategy, run.prepared.host.device),
        rows=rows,
        steps=steps,
        settings=_settings(job, run, rows),
        checkpoints=Checkpoints(run.folder.checkpoints, 1),
        events=run.teller.events,
        read_wish=_until(job["seconds"], job["least_steps"]),
    )
    taken = [event.data for event in read_events(run.folder.events) if event.type == "step"]
    return {
        "steps": [
            {
                "seconds": one["seconds"],
                "rows": len(steps.rows_of(step)),
                "tokens": one["tokens"],
                "loss": one["loss"],
            }
            for step, one in enumerate(taken)
        ],
        "peak_memory_bytes": result.peak_memory_bytes,
        "precision": run.resolved.precision,
        "flops_per_token": _flops_per_token(model, rows),
    }


def _until(seconds: float, least_steps: int) -> Callable[[], Wish]:
    """Asked before each step: an end once time is up, counted from the first step."""
    asked: list[float] = []

    def wish() -> Wish:
        asked.append(time.monotonic())
        return "cancel" if len(asked) > least_steps and asked[-1] - asked[0] > seconds else "continue"

    return wish


def _flops_per_token(model: Any, rows: TokenSet) -> float:
    """Operations of the matrix products of a token that shares nothing: forward, and back to inputs and adapters."""
    linear = {name: module.weight.numel() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = sum(size for name, size in linear.items() if name.endswith("lm_head"))
    adapters = sum(size for name, size in linear.items() if ".lora_" in name)
    frozen = sum(linear.values()) - head - adapters
    labels_a_token = float(rows.trained_counts_B.sum() / rows.lengths_B.sum())
    return 4 * frozen + 6 * adapters + 4 * head * labels_a_token


def _export(path: Path, job: dict[str, Any], rows: TokenSet, steps: StepPlan) -> dict[str, Any]:
    """Each row as token ids and which of them are trained; the rows of an item (a pair) together."""
    with path.open("w", encoding="utf-8") as file:
        for step in range(min(job["steps"], steps.steps_per_epoch)):
            for item in steps.rows_of(step).tolist():
                sides = [
                    {"token_ids": row.token_ids_T.tolist(), "trained": row.trained_T.astype(int).tolist()}
                    for row in rows.item(item)
                ]
                file.write(json.dumps(sides) + "\n")
    return {"rows": len(rows)}


if __name__ == "__main__":
    main()
