"""What an operator does beside the running service: tables, a key when all are lost, a lost data folder, backups."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from tunesmith.errors import UsageError
from tunesmith.service.auth.keys import make_key
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.migrate import newest, upgrade
from tunesmith.service.db.tables.accounts import API_KEYS
from tunesmith.service.first import prepare
from tunesmith.service.ids import new_id
from tunesmith.service.owning import adopt_local_runs, own_local_runs
from tunesmith.service.process import open_current
from tunesmith.service.settings import Settings

_BACKUP = "tunesmith.service.backup"


def prepare_tables(settings: Settings) -> str | None:
    """Bring the database up to date and make what a new service needs.

    Returns:
        The first administrator's key, the first time; None later.

    Raises:
        UsageError: ``service.database``: it does not answer; ``service.newer_database``; ``service.runs_elsewhere``:
            its jobs train in another data folder.
    """
    context = _opened(settings)
    try:
        own_local_runs(context)
        return prepare(context)
    finally:
        context.database.close()


def migrate(settings: Settings) -> str:
    """Bring the tables up to date; the version that they have then.

    Raises:
        UsageError: As of :func:`prepare_tables`.
    """
    _opened(settings).database.close()
    return newest()


def new_operator_key(settings: Settings) -> str:
    """Make a key that may everything; for a service that has none yet it is the first one.

    Raises:
        UsageError: As of :func:`prepare_tables`.
    """
    context = _opened(settings)
    try:
        first = prepare(context)
        if first is not None:
            return first
        key = make_key()
        row = {
            "id": new_id("key_"),
            "name": "made by the operator",
            "hash": key.hash,
            "shown": key.shown,
            "scope": "admin",
            "created_at": context.now(),
        }
        with context.database.write() as connection:
            connection.execute(insert(API_KEYS).values(**row))
        return key.secret
    finally:
        context.database.close()


def adopt(settings: Settings) -> None:
    """Let a data folder have the jobs that trained in another one, which is gone for good.

    Raises:
        UsageError: As of :func:`prepare_tables`; a dispatcher works for jobs at this moment.
    """
    context = _opened(settings)
    try:
        adopt_local_runs(context)
    finally:
        context.database.close()


def back_up(settings: Settings, path: Path, *, with_files: bool) -> dict[str, Any]:
    """Write an archive of a service, which may run meanwhile; what is in it.

    Raises:
        UsageError: The database does not answer, or the files lie in a store that has copies of its own.
        OutputError: The archive cannot be written.
    """
    context = open_current(settings)
    try:
        found: dict[str, Any] = import_module(f"{_BACKUP}.write").write_backup(context, path, with_files=with_files)
        return found
    finally:
        context.database.close()


def restore(settings: Settings, path: Path) -> dict[str, Any]:
    """Bring an archive into an empty database; what was in it.

    Raises:
        UsageError: The database is not empty, or the archive is not whole.
    """
    found: dict[str, Any] = import_module(f"{_BACKUP}.restore").restore_backup(settings, path)
    return found


def _opened(settings: Settings) -> Context:
    context = open_context(settings)
    try:
        upgrade(context.database)
    except DBAPIError as error:
        # The driver's words name the host and the user, never the password.
        raise UsageError(
            "the database does not answer as it should",
            code="service.database",
            value=str(error.orig).strip(),
            hint="see that it runs, and that --database names it and a user who may make tables",
        ) from error
    return context
