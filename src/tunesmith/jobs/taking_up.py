"""Follow a run that another machine has submitted, by what its store says.

A run's job.json lies on the machine that submitted it. Where that machine is gone, or another one has gone on with the
run meanwhile, the store knows which submission is the newest, and how the platform knows it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.jobs.registered_runs import note_use, used_model
from tunesmith.jobs.submitting import attempt_of
from tunesmith.runs.atomic import read_json, write_json, write_text
from tunesmith.runs.layout import RunFolder, create_run
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import JOB, RECIPE, RunStore


def take_up(runs_folder: Path, name: str, url: str) -> None:
    """Let a run here be at its newest submission; a run that was never submitted stays unknown here.

    Args:
        runs_folder: Where runs are found by name. A folder of this name has a job.json, or is not there.
        name: The run.
        url: Its address in the store.

    Raises:
        NetworkError: The store does not answer.
        OutputError: The run's folder cannot be written; nothing is left behind of a new one.
    """
    store, path = RunStore(open_store(url)), runs_folder / name
    told = store.last_submission()
    known = read_json(path / JOB) if path.is_dir() else None
    if told is None:
        if known is not None and known["run"] is not None and known["handle"] is not None:
            # An older version sent it, and told nobody.
            store.write_submission(attempt_of(known), known)
    elif known is None:
        _bring(store, runs_folder, name, told)
    elif _age(told) > _age(known):
        write_json(path / JOB, told)


def _age(record: Mapping[str, Any]) -> tuple[int, bool]:
    """Later submissions are greater, and of one submission what the platform has answered to it."""
    return attempt_of(record), record["handle"] is not None


def _bring(store: RunStore, runs_folder: Path, name: str, told: Mapping[str, Any]) -> None:
    run = create_run(runs_folder, name)
    try:
        write_text(run.recipe, store.store.read(RECIPE).decode())
        _note_use(run)
        write_json(run.path / JOB, dict(told))
    except TunesmithError:
        shutil.rmtree(run.path, ignore_errors=True)
        raise


def _note_use(run: RunFolder) -> None:
    model = used_model(run)
    if model is None:
        return
    try:
        note_use(run, model)
    except ModelError:
        # The version was removed since the run began; its worker has read it, and goes on.
        return
