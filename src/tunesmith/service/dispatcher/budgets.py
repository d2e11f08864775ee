"""A project's budget while its jobs run: what goes beyond it is paused or stopped, as the project says.

Jobs that wait do so until there is budget again; webhooks are told of a spent budget by the room of usage.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.schema import error_json
from tunesmith.service.fine_tuning.states import Reason, State, Wish
from tunesmith.service.fine_tuning.telling import Line, say
from tunesmith.service.shared.chores import Chore
from tunesmith.service.shared.metering import is_over_budget

# What else the project pays for, such as tokens of chats, is noticed so soon by jobs that tell nothing meanwhile.
_EVERY_SECONDS = 10.0
_CODE = "insufficient_quota"


def keep_to(context: Context, connection: Connection, job: Row[Any]) -> None:
    """Wish that a running job pauses or ends, if what its project has spent in this month has reached its budget.

    Args:
        context: The service.
        connection: Of a transaction that writes; what the job used is counted in it or before it.
        job: The job as it was before.
    """
    if job.wish != Wish.RUN:
        return
    project = connection.execute(select(PROJECTS).where(PROJECTS.c.id == job.project_id)).one()
    if not is_over_budget(context, connection, project):
        return
    pauses = project.budget_action == "pause"
    wish, reason = (Wish.PAUSE, Reason.PAUSED_BY_BUDGET) if pauses else (Wish.CANCEL, Reason.CANCELLED_BY_BUDGET)
    running = (JOBS.c.id == job.id) & (JOBS.c.wish == Wish.RUN) & (JOBS.c.state == State.RUNNING)
    changed = connection.execute(update(JOBS).where(running).values(wish=wish, reason=reason))
    if changed.rowcount == 1:
        what = "paused" if pauses else "cancelled"
        words = f"The project's budget of {project.budget:g} {context.settings.currency} is spent: the job is {what}"
        say(connection, job.id, Line(words, level="warn"), context.now())


def error_of_budget(reason: Reason) -> dict[str, Any] | None:
    """What a job tells as its error where the budget has paused or ended it; None for other reasons."""
    if reason == Reason.PAUSED_BY_BUDGET:
        return error_json(_CODE, "The project's budget of the month is spent: resume the job once there is more of it")
    if reason == Reason.CANCELLED_BY_BUDGET:
        return error_json(_CODE, "The project's budget of the month was spent while the job ran")
    return None


def spent_projects(context: Context, connection: Connection, state: State) -> set[str]:
    """Projects that have jobs in a state, and no budget left in this month."""
    query = select(PROJECTS).where(
        PROJECTS.c.budget.is_not(None), PROJECTS.c.id.in_(select(JOBS.c.project_id).where(JOBS.c.state == state))
    )
    return {row.id for row in connection.execute(query).all() if is_over_budget(context, connection, row)}


def keep_running_jobs(context: Context) -> None:
    """Pause or end the running jobs of projects whose budget is spent, by whatever spent it."""
    with context.database.read() as connection:
        projects = spent_projects(context, connection, State.RUNNING)
        if not projects:
            return
        query = select(JOBS).where(
            JOBS.c.state == State.RUNNING, JOBS.c.wish == Wish.RUN, JOBS.c.project_id.in_(projects)
        )
        jobs = connection.execute(query).all()
    for job in jobs:
        with context.database.write() as connection:
            keep_to(context, connection, job)


CHORES: tuple[Chore, ...] = (Chore("keep running jobs to budgets", _EVERY_SECONDS, keep_running_jobs),)
