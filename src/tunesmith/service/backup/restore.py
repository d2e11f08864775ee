"""Restore a backup into a new service, of the same or another kind of database, and of this or a newer version."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sqlalchemy import MetaData, inspect

from tunesmith.errors import UsageError
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.backup.archive import RUNS, STORAGE, TABLES, Archive, open_archive
from tunesmith.service.backup.rows import load_rows, tables_of
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.database import Database
from tunesmith.service.db.migrate import revision_of, revisions, upgrade
from tunesmith.service.owning import disown
from tunesmith.service.settings import Settings
from tunesmith.service.shared.files import move_in


def restore_backup(settings: Settings, path: Path) -> dict[str, Any]:
    """Restore a backup; the tables are brought to this version afterwards.

    Args:
        settings: Of the new service. Its database must be empty; its storage may be of any kind.
        path: What :func:`tunesmith.service.backup.write.write_backup` wrote.

    Returns:
        What was restored: ``revision`` (of the tables now), ``tables`` (rows by name), ``files``.

    Raises:
        UsageError: ``backup.missing``, ``backup.broken``, ``backup.newer``; ``backup.not_empty``: there are tables in
            the database. Nothing was changed.
        OutputError, NetworkError: The storage cannot be written. The same may be done again.
    """
    context = open_context(settings)
    try:
        with open_archive(path) as archive:
            revision = str(archive.about["revision"])
            _require_possible(context.database, revision)
            # Files first: as long as the database is empty, everything may be done again.
            files = _restore_files(context, archive)
            tables = _restore_rows(context.database, archive, revision)
        return {"revision": revision_of(context.database), "tables": tables, "files": files}
    finally:
        context.database.close()


def _require_possible(database: Database, revision: str) -> None:
    if revision not in revisions():
        raise UsageError(
            "a newer version of Tunesmith has written this backup",
            code="backup.newer",
            value=revision,
            hint="restore it with that version",
        )
    with database.engine.connect() as connection:
        names = inspect(connection).get_table_names()
    if names:
        raise UsageError(
            "a backup is restored into an empty database only",
            code="backup.not_empty",
            value=f"{len(names)} tables",
            hint="name a new database; nothing was changed",
        )


def _restore_rows(database: Database, archive: Archive, revision: str) -> dict[str, int]:
    try:
        upgrade(database, revision)
        restored = _load(database, archive)
        upgrade(database)
        disown(database)
    except BaseException:
        # It was empty before, and is to be empty again.
        metadata = MetaData()
        metadata.reflect(database.engine)
        metadata.drop_all(database.engine)
        raise
    return restored


def _load(database: Database, archive: Archive) -> dict[str, int]:
    restored: dict[str, int] = {}
    with database.write() as connection:
        # Members are in the order in which tables name each other: that of the same tables when they were written.
        tables = {table.name: table for table in tables_of(connection)}
        for name, source in archive.members(TABLES):
            table = tables.get(name.stem)
            if table is None:
                raise UsageError("the backup has a table that is unknown", code="backup.broken", value=name.stem)
            restored[table.name] = load_rows(connection, table, source)
    return restored


def _restore_files(context: Context, archive: Archive) -> int:
    files = 0
    for name, source in archive.members(STORAGE):
        copy = _written(context.scratch / f"restore-{uuid.uuid4().hex}", source)
        move_in(context, copy, name.as_posix())
        files += 1
    for name, source in archive.members(RUNS):
        _written(context.settings.runs_folder / _local(name), source)
        files += 1
    return files


def _written(path: Path, source: BinaryIO) -> Path:
    with telling_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path


def _local(name: PurePosixPath) -> Path:
    return Path(*name.parts)
