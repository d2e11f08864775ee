"""Checkpoints of a job's run become models that can be asked by name, while the run goes on."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from tunesmith.errors import TunesmithError
from tunesmith.jobs.bases import inputs_here
from tunesmith.jobs.checkpoints import checkpoint_folders, keep_checkpoints
from tunesmith.jobs.registry import Wanted, register
from tunesmith.jobs.submitted import Job
from tunesmith.registry.versions import Version, read_checkpoints
from tunesmith.runs.events import read_events
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOB_CHECKPOINTS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.dispatcher.reading import steps_of
from tunesmith.service.fine_tuning.telling import Line
from tunesmith.service.ids import new_id
from tunesmith.service.shared.telling import tell
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_files
from tunesmith.storage.store import Store

_log = logging.getLogger(__name__)
_CHANCE_LETTERS = 8
# In names of models, colons and slashes have a meaning; Azure has no dots in a suffix.
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def tuned_name(context: Context, job: Row[Any]) -> str:
    """What a job's model is called; its chance letters are the job's own, so that it is always the same."""
    suffix = _NOT_OF_NAMES.sub("-", job.suffix or "")
    return f"ft:{job.base}:{context.settings.organization}:{suffix}:{job.id[-_CHANCE_LETTERS:]}"


def registry_of(context: Context) -> Store:
    """The registry of the service's models."""
    return open_store(context.settings.registry)


def new_checkpoints(context: Context, job: Row[Any], run: Job, tried: set[int]) -> list[int]:
    """Steps of checkpoints that the run has and the job does not tell of yet, but for those tried in vain."""
    store = run.store
    if store is not None:
        pull_files(store, run.run, lambda path: path.startswith("checkpoints/"))
    there = set(checkpoint_folders(run.run)) - tried
    if not there:
        return []
    with context.database.read() as connection:
        query = select(JOB_CHECKPOINTS.c.step).where(JOB_CHECKPOINTS.c.job_id == job.id)
        known = set(connection.execute(query).scalars())
    return sorted(there - known)


def keep(context: Context, run: Job, steps: list[int]) -> dict[int, Version]:
    """Make checkpoints usable and put them into the registry; the version of each that is.

    A worker loads the model for it. What does not work is told in the log and takes nothing from the job.
    """
    store = registry_of(context)
    try:
        with nullcontext() if run.store is None else inputs_here(run.store, run.run, run.record):
            wanted = Wanted(run.run.name, checkpoints=False)
            version = register(store, str(run.run.path), run.run.path.parent, wanted, _nothing).version
            return dict.fromkeys(_usable(store, version, steps), version)
    except TunesmithError:
        _log.exception("job %s: its checkpoints cannot be kept", run.run.name)
        return {}


def _usable(store: Store, version: Version, steps: list[int]) -> list[int]:
    result = None if version.record is None else version.record.step
    there = read_checkpoints(store, version.name, version.number)
    missing = [step for step in steps if step != result and step not in there]
    # Together they cost one worker; where that fails, one of them is to blame.
    if missing and not _kept(store, version, missing):
        missing = [step for step in missing if not _kept(store, version, [step])]
        return [step for step in steps if step not in missing]
    return steps


def _kept(store: Store, version: Version, steps: list[int]) -> bool:
    try:
        keep_checkpoints(store, version, steps, _nothing)
    except TunesmithError:
        _log.exception("job %s: checkpoints of steps %s cannot be kept", version.name, steps)
        return False
    return True


def write_checkpoints(
    context: Context, connection: Connection, job: Row[Any], run: Job, kept: Mapping[int, Version]
) -> list[Line]:
    """Write rows of checkpoints that are kept, and tell webhooks; what is to be told of them in the job's events.

    Args:
        context: The service.
        connection: Of a transaction whose writer holds the job's lock.
        job: The job.
        run: Its run.
        kept: Versions by step.
    """
    numbers = steps_of(read_events(run.run.events))
    lines = []
    for step, version in kept.items():
        name = f"{tuned_name(context, job)}:ckpt-step-{step}"
        known = select(JOB_CHECKPOINTS.c.id).where(JOB_CHECKPOINTS.c.job_id == job.id, JOB_CHECKPOINTS.c.step == step)
        if connection.execute(known).first() is not None:
            continue
        row = {"id": new_id("ftckpt_"), "job_id": job.id, "step": step, "name": name, "created_at": context.now()}
        connection.execute(insert(JOB_CHECKPOINTS).values(metrics=numbers.get(step, {"step": step}), **row))
        write_model(context, connection, job, name, f"{version.name}:{version.number}@{step}")
        told = {"id": job.id, "step_number": step, "fine_tuned_model_checkpoint": name}
        tell(context, connection, job.project_id, "fine_tuning.job.checkpoint.created", told)
        lines.append(Line(f"Checkpoint created at step {step}: {name}", source=f"checkpoint:{step}"))
    return lines


def write_model(context: Context, connection: Connection, job: Row[Any], name: str, address: str) -> None:
    """Let a name mean a version of the registry."""
    row = {
        "id": name,
        "project_id": job.project_id,
        "job_id": job.id,
        "base": job.base,
        "address": address,
        "created_at": context.now(),
    }
    context.database.upsert(connection, TUNED_MODELS, row, ["id"])


def _nothing(_event: object) -> None:
    """Nobody follows the worker that makes a checkpoint usable."""
