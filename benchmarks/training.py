"""Training speed of ours and the peers on the same rows, interleaved, with the limit of the machine beside it.

    python -m benchmarks.training --data-folder FOLDER [--workloads NAME ...] [--sides NAME ...] [--rounds 2]

Every side learns the same token rows with the same model, LoRA and optimizer settings, in a process and an environment
of its own, one after the other, in turn for several rounds. Each first step is a warm-up and is not counted; a side
takes as many counted steps as its time allows, and `--least-counted-steps` at least. Tokens are real ones: padding
counts for nothing, and what is shared counts for every row that has it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import print_workload
from benchmarks.levers import LEVERS, Lever
from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_step_options
from benchmarks.peers.environments import python_of, versions_of
from benchmarks.workloads import ALPHA, LEARNING_RATE, RANK, WORKLOADS, Workload
from tunesmith.catalog.cache import cache_folder
from tunesmith.executors.environment import ALLOCATOR, compute_environment
from tunesmith.models.host import race

ROOT = Path(__file__).resolve().parents[1]
MOST_STEPS = 40


@dataclass(frozen=True)
class Side:
    """One way of training: whose code, and its settings; ``pairs`` says whether it can learn preference pairs.

    ``lever`` is how ours trains. ``only`` names the one workload that a side is for; None for all.
    """

    peer: str | None
    dtype: str = "float32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    pairs: bool = True
    lever: str = "all levers"
    only: str | None = None

    def takes(self, workload: Workload) -> bool:
        """Whether it is measured on a workload."""
        return (self.pairs or not workload.is_pairs) and (self.only is None or WORKLOADS[self.only] is workload)


_BY_LENGTH = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
# Activations are computed again unless it says otherwise; the tuned sides of TRL keep them too.
_PACKED = {"packing": True, "neat_packing": True, "disable_gradient_checkpointing": True}
SIDES: Mapping[str, Side] = {
    "tunesmith": Side(None),
    # Another choice of rows, so another training: what it does to the loss is measured apart.
    "tunesmith-grouped": Side(None, pairs=False, lever="rows of one document together"),
    # The order of the rows costs nothing, and with the same order losses can be compared step by step.
    "trl-defaults": Side("trl", settings={"train_sampling_strategy": "sequential"}),
    "trl-float32": Side("trl", settings={"bf16": False, **_BY_LENGTH}),
    # Slower, since its batches have rows of any length; for losses in float32 over the same rows as ours.
    "trl-float32-sequential": Side(
        "trl",
        settings={"bf16": False, **_BY_LENGTH, "train_sampling_strategy": "sequential"},
        pairs=False,
        only="conversations",
    ),
    "trl-bfloat16": Side("trl", "bfloat16", {"bf16": True, **_BY_LENGTH}),
    "llamafactory-float32": Side("llamafactory", settings=_PACKED, pairs=False),
    "llamafactory-bfloat16": Side("llamafactory", "bfloat16", {"bf16": True, **_PACKED}, pairs=False),
}


def main() -> None:
    """Measure, print and keep."""
    options = read_step_options(
        "Training speed of ours and the peers on the same rows.", {"sides": SIDES}, WORKLOADS, 45
    )
    before = conditions()
    measured = {}
    for name in options.workloads:
        measured[name] = measure(WORKLOADS[name], options)
        print_workload(name, measured[name])
    if not options.no_keep:
        peers = sorted({peer for name in options.sides if (peer := SIDES[name].peer)})
        result = {
            "measured": measured,
            "conditions": before,
            "peers": {peer: versions_of(peer) for peer in peers},
            "host_class": host_class(),
        }
        print(f"kept in {keep('training', result).name}")


def measure(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """All sides on one workload: each side's runs, and the speed of matrix products before each round."""
    sides = [name for name in options.sides if SIDES[name].takes(workload)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    products: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        exported = run_own(workload, options, Path(scratch) / "export", export=str(Path(scratch) / "rows.jsonl"))
        for number in range(options.rounds):
            products.append(race("cpu", rounds=40))
            for name in sides:
                folder = Path(scratch) / f"{name}-{number}"
                side = SIDES[name]
                found = (
                    run_own(workload, options, folder, side.lever)
                    if side.peer is None
                    else run_peer(side, workload, options, folder, exported["model"])
                )
                runs[name].append({key: value for key, value in found.items() if key != "model"})
    return {"about": workload.about, "runs": runs, "products": products}


def run_own(
    workload: Workload, options: argparse.Namespace, folder: Path, lever: str = "all levers", **more: Any
) -> dict[str, Any]:
    """One run of ours, perhaps without a lever, or the export of the rows; the environment is that of the launcher."""
    recipe = workload.full_recipe(Path(options.data_folder))
    recipe["train"] |= LEVERS[lever].train
    job = {
        "recipe": recipe,
        "lever": lever,
        "rows_per_step": workload.rows_per_step,
        "steps": MOST_STEPS,
        "learning_rate": LEARNING_RATE,
        "seconds": options.seconds,
        "least_steps": 1 + options.least_counted_steps,
        "scratch": str(folder),
        **more,
    }
    command = [sys.executable, "-m", "benchmarks.contestant"]
    return run_job(command, job, folder, own_environment(LEVERS[lever]))


def own_environment(lever: Lever) -> dict[str, str]:
    """The environment in which the launcher starts a worker, but with a lever's memory allocator."""
    whole = compute_environment({**lever.environment, **os.environ})
    return {
        key: value
        for key, value in whole.items()
        if key not in ALLOCATOR or key in lever.environment or key in os.environ
    }


def run_peer(side: Side, workload: Workload, options: argparse.Namespace, folder: Path, model: str) -> dict[str, Any]:
    """One run of a peer."""
    assert side.peer is not None
    settings = dict(side.settings)
    if workload.is_pairs:
        # TRL groups rows by length, not pairs.
        settings.pop("train_sampling_strategy", None)
    if side.peer == "llamafactory":
        settings |= {
            "cutoff_len": workload.pack_tokens,
            "per_device_train_batch_size": workload.packs_per_step // workload.batches_per_step,
            "gradient_accumulation_steps": workload.batches_per_step,
        }
    job = {
        "model": model,
        "rows": str(folder.parent / "rows.jsonl"),
        "rows_per_step": workload.rows_per_step,
        "batches_per_step": workload.batches_per_step,
        "steps": MOST_STEPS,
        "least_steps": 1 + options.least_counted_steps,
        "seconds": options.seconds,
        # As many as ours has: torch's own choice, or the limit of a container that the launcher sets.
        "threads": int(own_environment(LEVERS["all levers"]).get("OMP_NUM_THREADS", torch.get_num_threads())),
        "dtype": side.dtype,
        "rank": RANK,
        "alpha": ALPHA,
        "learning_rate": LEARNING_RATE,
        "settings": settings,
        "scratch": str(folder),
    }
    command = [str(python_of(side.peer)), str(ROOT / "benchmarks" / "peers" / f"{side.peer}_run.py")]
    return run_job(command, job, folder, {**os.environ, "HF_HUB_OFFLINE": "1"})


def run_job(command: Sequence[str], job: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Any:
    """What a side's process prints last; or the error that it ended with."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, check=False, cwd=ROOT, env=dict(environment)
    )
    if done.returncode == -signal.SIGKILL:
        return {"error": ["killed by the system, which had no memory left"]}
    if done.returncode:
        # Kept results name no folder of the machine that they come from.
        told = done.stderr.replace(str(cache_folder()), "CACHE").replace(str(ROOT), "").replace(str(folder.parent), "")
        return {"error": told.strip().splitlines()[-5:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
