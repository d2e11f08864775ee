"""Which data folder the jobs of a service train in, where they train on the machine of its dispatcher.

Such a run is a folder and a process of one machine: a keeper with another data folder would find neither, and begin the
job once more while its worker goes on. So the database remembers the one folder, by a name that lies in it. Executors
of other machines know a job by its id, and any keeper finds it there.
"""

from __future__ import annotations

import uuid

from sqlalchemy import delete, func, select, update

from tunesmith.errors import UsageError
from tunesmith.runs.atomic import write_text
from tunesmith.service.context import Context
from tunesmith.service.db.database import Database
from tunesmith.service.db.tables.accounts import SECRETS
from tunesmith.service.db.tables.jobs import JOBS

_NAME = "data_folder"
_FILE = "folder.id"


def own_local_runs(context: Context) -> None:
    """Make sure that no other data folder has runs of this service; the first one that asks has them from then on.

    Raises:
        UsageError: ``service.runs_elsewhere``: another folder has them.
        OutputError: The data folder cannot be written.
    """
    if context.settings.shares_runs:
        return
    mine = _name_of_folder(context)
    with context.database.write() as connection:
        context.database.upsert(connection, SECRETS, {"name": _NAME, "value": mine}, ["name"])
        known = connection.execute(select(SECRETS.c.value).where(SECRETS.c.name == _NAME)).scalar_one()
    if known != mine:
        raise UsageError(
            "jobs of this database train in another data folder",
            code="service.runs_elsewhere",
            place=str(context.settings.data_folder),
            hint="with the executor `local` a database has one keeper: start it with that folder, or let jobs train on "
            "a cluster. If that folder is gone for good, `tunesmith service adopt` takes its jobs over, and those that "
            "run begin again",
        )


def adopt_local_runs(context: Context) -> None:
    """Let this data folder have the runs of the service from now on; jobs that ran elsewhere begin again.

    Raises:
        UsageError: ``service.dispatcher_works``: a dispatcher works for jobs at this moment.
        OutputError: The data folder cannot be written.
    """
    row = {"name": _NAME, "value": _name_of_folder(context)}
    with context.database.write() as connection:
        held = select(func.count()).where(JOBS.c.lock_expires_at > context.now())
        if connection.execute(held).scalar_one():
            raise UsageError(
                "a dispatcher works for jobs of this database",
                code="service.dispatcher_works",
                hint="stop its service, and the workers that it has left; wait for half a minute",
            )
        context.database.upsert(connection, SECRETS, row, ["name"], row)
        # What runs begins again, and so do the numbers of its events.
        connection.execute(update(JOBS).where(JOBS.c.finished_at.is_(None)).values(told_seq=0))


def disown(database: Database) -> None:
    """Forget whose runs they were: a restored database belongs to whichever folder starts it."""
    with database.write() as connection:
        connection.execute(delete(SECRETS).where(SECRETS.c.name == _NAME))


def _name_of_folder(context: Context) -> str:
    path = context.settings.data_folder / _FILE
    if not path.exists():
        write_text(path, f"{uuid.uuid4().hex}\n")
    return path.read_text(encoding="ascii").strip()
