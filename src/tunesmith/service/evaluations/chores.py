"""Evaluations that ended long ago go, with their reports."""

from __future__ import annotations

from sqlalchemy import delete, select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.evaluations.reports import remove_reports
from tunesmith.service.evaluations.schema import ENDED
from tunesmith.service.shared.chores import Chore

_DAY_SECONDS = 86_400.0


def remove_old_evaluations(context: Context) -> None:
    """Remove evaluations that have ended longer ago than the service or their project keeps jobs.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    for project_id, name in _old(context):
        # The row goes last: a process that is killed here does it again.
        remove_reports(context, project_id, name)
        with context.database.write() as connection:
            connection.execute(delete(EVALUATIONS).where(EVALUATIONS.c.id == name))


def _old(context: Context) -> list[tuple[str, str]]:
    query = (
        select(EVALUATIONS.c.project_id, EVALUATIONS.c.id, EVALUATIONS.c.finished_at, PROJECTS.c.retention_days)
        .join(PROJECTS, PROJECTS.c.id == EVALUATIONS.c.project_id)
        .where(EVALUATIONS.c.state.in_(ENDED))
        .order_by(EVALUATIONS.c.finished_at)
    )
    with context.database.read() as connection:
        rows = connection.execute(query).all()
    now, usual = context.now(), context.settings.job_retention_days
    found = []
    for row in rows:
        days = usual if row.retention_days is None else row.retention_days
        if days is not None and row.finished_at < now - days * _DAY_SECONDS:
            found.append((row.project_id, row.id))
    return found


CHORES: tuple[Chore, ...] = (Chore("evaluations.remove_old", 3600.0, remove_old_evaluations),)
