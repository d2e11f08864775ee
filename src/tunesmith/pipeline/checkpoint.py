"""Checkpoints made usable: the weights of a training between two steps as an adapter or a model of their own.

SCRATCH/request.json                  the run and the steps
SCRATCH/checkpoints/step-00000120/    those checkpoints, so that the run may go on and remove its own
SCRATCH/usable/step-00000120/         what comes of each: adapter/ or model/, and a manifest as a run has one
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.models.prepare import PreparedModel
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.finish import model_part, now, version
from tunesmith.pipeline.merged import with_merged_base
from tunesmith.pipeline.prepare import Prepared, prepare
from tunesmith.pipeline.run import Run, load_base, packing_attention, prepare_technique
from tunesmith.pipeline.saved import save_weights
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.resolved import Resolved, resolved_from_json
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import EventWriter
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.table import make_technique


def run_checkpoints(folder: Path, events: EventWriter) -> None:
    """Make the checkpoints of ``request.json`` usable; the run's own folder is only read.

    Raises:
        CheckpointError: One is not whole, or is of other weights.
        TunesmithError: The run's model or data cannot be had any more.
    """
    request = read_json(folder / "request.json")
    source = RunFolder(Path(request["run"]))
    teller = Teller(events)
    run = _as_trained(source, teller)
    checkpoints = Checkpoints(folder / "checkpoints")
    technique = make_technique(run.resolved.technique)
    model = prepare_technique(run, load_base(run), run.prepared.train.items)
    for step in request["steps"]:
        teller.state("saving", f"step {step:,}")
        state = checkpoints.load(checkpoints.path_of(step))
        technique.load_trainable_state(model, dict(state.weights.items()))
        target = folder / "usable" / checkpoints.path_of(step).name
        target.mkdir(parents=True)
        save_weights(target / technique.artifact, source, run.prepared, run.resolved, model)
        write_json(target / "manifest.json", _manifest(source, run.prepared, run.resolved, step))
        events.emit("artifact", kind="checkpoint", path=str(target.relative_to(folder)), step=step)
    teller.state("finished")


def _as_trained(source: RunFolder, teller: Teller) -> Run:
    """The run as another rank sees it: the same model, rows and values, and nothing written."""
    recipe = load_recipe(source.recipe)
    teller.state("preparing", recipe.model)
    resolved = resolved_from_json(read_json(source.resolved))
    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), source.path.parent, teller)
    prepared = with_merged_base(source, prepared, teller)
    return Run(
        source,
        prepared,
        resolved,
        teller,
        RunClock(source.events, 1),
        lambda: "continue",
        packing_attention(prepared, teller),
    )


def _manifest(source: RunFolder, prepared: Prepared, resolved: Resolved, step: int) -> dict[str, Any]:
    """What is read of a run's manifest where a model is used."""
    model: PreparedModel = prepared.model
    return {
        "format": 1,
        "run": source.name,
        "created": now(),
        "tunesmith": version(),
        "identity": resolved.identity,
        "model": {**model_part(prepared), "folder": os.path.relpath(model.folder, source.path)},
        "task": {"name": prepared.task.name, "labels": list(prepared.task.labels)},
        "seed": resolved.seed,
        "counts": {"steps": step},
    }
