"""Runs of jobs that ended long ago are removed; their models, results and reports stay."""

from __future__ import annotations

import shutil

from sqlalchemy import select, update

from tunesmith.jobs.registered_runs import forget_use, used_model
from tunesmith.runs.layout import remove_run
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.places import inputs_folder, run_of
from tunesmith.service.fine_tuning.states import TERMINAL
from tunesmith.service.shared.chores import Chore

_DAY_SECONDS = 86_400


def remove_old_runs(context: Context) -> None:
    """Remove runs of jobs that have ended longer ago than the service or their project keeps them.

    Raises:
        OutputError: A folder cannot be removed.
    """
    for job_id in _old(context):
        run = run_of(context, job_id)
        if run.recipe.is_file():
            model = used_model(run)
            remove_run(run)
            if model is not None:
                forget_use(run, model)
        shutil.rmtree(run.path, ignore_errors=True)
        shutil.rmtree(inputs_folder(context, job_id), ignore_errors=True)
        with context.database.write() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(run=None))


def _old(context: Context) -> list[str]:
    """Jobs whose runs have had their time."""
    query = (
        select(JOBS.c.id, JOBS.c.finished_at, PROJECTS.c.retention_days)
        .join(PROJECTS, PROJECTS.c.id == JOBS.c.project_id)
        .where(JOBS.c.state.in_(list(TERMINAL)), JOBS.c.run.is_not(None))
        .order_by(JOBS.c.finished_at)
    )
    with context.database.read() as connection:
        rows = connection.execute(query).all()
    now, usual = context.now(), context.settings.job_retention_days
    found: list[str] = []
    for row in rows:
        days = usual if row.retention_days is None else row.retention_days
        if days is not None and row.finished_at < now - days * _DAY_SECONDS:
            found.append(row.id)
    return found


CHORES: tuple[Chore, ...] = (Chore("remove old runs", 3600.0, remove_old_runs),)
