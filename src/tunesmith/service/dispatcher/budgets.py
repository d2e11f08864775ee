"""A project's budget while its jobs run: what goes beyond it is paused or stopped, as the project says."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.states import Reason, Wish
from tunesmith.service.fine_tuning.telling import Line, say
from tunesmith.service.shared.metering import month_of, spent
from tunesmith.service.shared.telling import tell


def keep_to(context: Context, connection: Connection, job: Row[Any]) -> None:
    """Wish that a job pauses or ends, if what its project has spent in this month has reached its budget.

    Args:
        context: The service.
        connection: Of the transaction that has counted what the job used.
        job: The job as it was before.
    """
    if job.wish != Wish.RUN:
        return
    query = select(PROJECTS.c.budget, PROJECTS.c.budget_action).where(PROJECTS.c.id == job.project_id)
    project = connection.execute(query).one()
    now = context.now()
    if project.budget is None or spent(connection, job.project_id, month_of(now)) < project.budget:
        return
    pauses = project.budget_action == "pause"
    wish, reason = (Wish.PAUSE, Reason.PAUSED_BY_BUDGET) if pauses else (Wish.CANCEL, Reason.CANCELLED_BY_BUDGET)
    changed = connection.execute(
        update(JOBS).where(JOBS.c.id == job.id, JOBS.c.wish == Wish.RUN).values(wish=wish, reason=reason)
    )
    if changed.rowcount == 1:
        what = "paused" if pauses else "cancelled"
        words = f"The project's budget of {project.budget:g} {context.settings.currency} is spent: the job is {what}"
        say(connection, job.id, Line(words, level="warn"), now)
        tell(context, connection, job.project_id, "budget.exceeded", {"job": job.id, "budget": project.budget})
