"""What jobs leave goes: inputs with the job's end, runs and reports after their time, all of it with the project.

A job itself stays, with its events, its model and its result file: it says where the model came from, and OpenAI's
contract has no way to delete one. See docs/decisions/0016-service.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sqlalchemy import ColumnElement, and_, select, update

from tunesmith.errors import TunesmithError
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import DELETED_WORK, PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.places import STORED_RUNS, inputs_folder, run_of
from tunesmith.service.fine_tuning.removing import remove_inputs, remove_inputs_here, remove_left, remove_run_here
from tunesmith.service.fine_tuning.states import TERMINAL
from tunesmith.service.shared.chores import Chore

_log = logging.getLogger(__name__)
_DAY_SECONDS = 86_400
_AT_ONCE = 200
_JOB = "ftjob-"


def remove_old_runs(context: Context) -> None:
    """Remove runs and reports of jobs that have ended longer ago than the service or their project keeps them."""
    for project_id, job_id in _old(context):
        try:
            remove_run_here(context, job_id)
            remove_inputs_here(context, job_id)
            remove_left(context, project_id, job_id)
        except TunesmithError:
            # The others go; this one is tried again.
            _log.exception("job %s: its run cannot be removed", job_id)
            continue
        with context.database.write() as connection:
            # Other machines that have something of it see by this that it goes.
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(run=None))


def remove_leftovers(context: Context) -> None:
    """Remove inputs of jobs that have ended, and runs that were removed elsewhere, from this machine.

    Jobs that the database does not know are let alone: the data folder may have served another one.
    """
    ended = JOBS.c.state.in_(list(TERMINAL))
    for some in _names_in(inputs_folder(context, _JOB).parent):
        for job_id in _over(context, some, ended):
            remove_inputs_here(context, job_id)
    for some in _names_in(run_of(context, _JOB).path.parent):
        for job_id in _over(context, some, and_(ended, JOBS.c.run.is_(None))):
            try:
                remove_run_here(context, job_id)
            except TunesmithError:
                _log.exception("job %s: its run cannot be removed", job_id)


def remove_stored_inputs(context: Context) -> None:
    """Remove inputs of jobs that have ended from the storage, where their end could not do it.

    Raises:
        OutputError, NetworkError: The storage cannot be read or written.
    """
    names = iter(sorted(context.storage.names(STORED_RUNS)))
    for some in _in_parts(name for name in names if name.startswith(_JOB)):
        for job_id in _over(context, some, JOBS.c.state.in_(list(TERMINAL))):
            remove_inputs(context, job_id)


def _names_in(folder: Path) -> Iterator[Sequence[str]]:
    yield from _in_parts(path.name for path in sorted(folder.glob(f"{_JOB}*")))


def _in_parts(names: Iterator[str]) -> Iterator[Sequence[str]]:
    while some := list(islice(names, _AT_ONCE)):
        yield some


def _over(context: Context, names: Sequence[str], is_over: ColumnElement[bool]) -> list[str]:
    """Those of some jobs that are over, or whose project was deleted."""
    over = select(JOBS.c.id).where(JOBS.c.id.in_(names), is_over)
    deleted = select(DELETED_WORK.c.id).where(DELETED_WORK.c.id.in_(names))
    with context.database.read() as connection:
        return list(connection.execute(over.union(deleted)).scalars())


def _old(context: Context) -> list[tuple[str, str]]:
    """Jobs whose runs have had their time, with their projects."""
    query = (
        select(JOBS.c.project_id, JOBS.c.id, JOBS.c.finished_at, PROJECTS.c.retention_days)
        .join(PROJECTS, PROJECTS.c.id == JOBS.c.project_id)
        .where(JOBS.c.state.in_(list(TERMINAL)), JOBS.c.run.is_not(None))
        .order_by(JOBS.c.finished_at)
    )
    with context.database.read() as connection:
        rows = connection.execute(query).all()
    now, usual = context.now(), context.settings.job_retention_days
    found: list[tuple[str, str]] = []
    for row in rows:
        days = usual if row.retention_days is None else row.retention_days
        if days is not None and row.finished_at < now - days * _DAY_SECONDS:
            found.append((row.project_id, row.id))
    return found


CHORES: tuple[Chore, ...] = (
    Chore("remove old runs", 3600.0, remove_old_runs),
    Chore("remove leftovers of jobs", 60.0, remove_leftovers),
    Chore("remove stored inputs of jobs", 6 * 3600.0, remove_stored_inputs),
)
