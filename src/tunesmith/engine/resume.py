"""Going on from a checkpoint: what must be the same, what is put back, and what is said about it."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tunesmith.data.steps import StepPlan
from tunesmith.data.types import TokenSet
from tunesmith.engine.checkpoint import Checkpoints, CheckpointState
from tunesmith.engine.settings import TrainSettings
from tunesmith.errors import CheckpointError, Problem
from tunesmith.runs.events import EventWriter

# How rows are laid out, how often things are saved, and what happens on bad numbers may differ between attempts:
# they do not change where training goes.
_DECISIVE = (
    "optimizer",
    "patience",
    "neftune_alpha",
    "total_steps",
    "seed",
    "learning_rate",
    "schedule",
    "warmup",
    "weight_decay",
    "clip",
    "precision",
)
_SAMPLED_ROWS = 64


def training_identity(
    settings: TrainSettings, rows: TokenSet, steps: StepPlan, weights: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """What decides the trajectory, as plain values: settings, data with its order, and which weights train.

    Of the items all lengths and trained counts count, and the rows of 64 spread over the set.
    """
    data = hashlib.sha256()
    for numbers in (rows.lengths_B, rows.trained_counts_B, steps.rows_of(0)):
        data.update(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
    for index in np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_ROWS).astype(int)).tolist():
        for row in rows.item(index):
            data.update(np.ascontiguousarray(row.token_ids_T, dtype=np.int64).tobytes())
            data.update(np.ascontiguousarray(row.trained_T, dtype=np.bool_).tobytes())
            if row.label_ids_T is not None:
                data.update(np.ascontiguousarray(row.label_ids_T, dtype=np.int64).tobytes())
            if row.kind:
                data.update(bytes([row.kind]))
    names = repr([(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in weights.items()])
    return {
        **{name: getattr(settings, name) for name in _DECISIVE},
        "rows": len(rows),
        "steps_per_epoch": steps.steps_per_epoch,
        "data": data.hexdigest(),
        "trained_weights": hashlib.sha256(names.encode()).hexdigest(),
    }


def library_versions() -> dict[str, str]:
    """Versions of what computes."""
    return {name: version(name) for name in ("tunesmith", "torch", "transformers", "peft", "numpy")}


def find_checkpoint(checkpoints: Checkpoints, identity: dict[str, Any], events: EventWriter) -> CheckpointState | None:
    """The state to go on from, or None for a fresh start. Says in warnings what was broken or differs in versions.

    Raises:
        CheckpointError: No checkpoint is whole, or the newest whole one belongs to other settings or data.
    """
    checkpoints.clean()
    found = checkpoints.find()
    if found.path is None:
        return None
    state = checkpoints.load(found.path)
    _check_identity(state.identity, identity, str(found.path))
    for path in found.broken:
        aside = checkpoints.set_aside(path)
        wrong = "; ".join(line for problem in found.problems for line in problem.lines() if path.name in line)
        events.emit(
            "warning",
            state.step,
            code="checkpoint.broken",
            message=f"{path.name} is broken and now lies in {aside.name}; going on from {found.path.name} ({wrong})",
        )
    current = library_versions()
    differing = [
        f"{name} {old} -> {current.get(name)}" for name, old in state.versions.items() if current.get(name) != old
    ]
    if differing:
        events.emit(
            "warning",
            state.step,
            code="checkpoint.versions",
            message=f"the checkpoint was written with other versions, numbers may differ: {', '.join(differing)}",
        )
    return state


def _check_identity(saved: dict[str, Any], now: dict[str, Any], place: str) -> None:
    problems = [
        Problem("checkpoint.identity", f"{name} differs", value=f"saved {saved.get(name)}, now {now.get(name)}")
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if problems:
        raise CheckpointError(
            "the checkpoint belongs to other settings or data",
            code="checkpoint.identity",
            place=place,
            hint="resume with the recipe and data that the run began with, or start a new run",
            problems=problems,
        )
