"""Write a backup while the service runs."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from sqlalchemy import Connection

from tunesmith.errors import UsageError
from tunesmith.runs.atomic import SCRATCH_MARK
from tunesmith.service.backup.archive import RUNS, STORAGE, TABLES, Writer, new_archive
from tunesmith.service.backup.rows import dump_rows, tables_of
from tunesmith.service.context import Context
from tunesmith.service.db.database import open_database

# Of the storage: what people sent and got, and tuned models.
_FOLDERS = ("projects", "registry")


def write_backup(context: Context, path: Path, *, with_files: bool) -> dict[str, Any]:
    """Write a backup of one moment of the database, and of files as they are found right after it.

    Args:
        context: The service; it may be at work meanwhile.
        path: The new file. It holds secrets, and only its owner may read it.
        with_files: Also files, tuned models and runs; only of a storage that is a folder, since other stores have
            backups of their own.

    Returns:
        What is in it: ``path``, ``bytes``, ``revision``, ``tables`` (rows by name), ``files``, ``file_bytes``.

    Raises:
        UsageError: ``backup.storage``: files of a storage that is no folder; ``backup.empty``: there are no tables.
        OutputError: The file cannot be written.
    """
    if with_files and context.storage.local is None:
        raise UsageError(
            "files of this storage cannot be in a backup",
            code="backup.storage",
            value=context.storage.url,
            hint="back up the database alone, and use the store's own versions or copies",
        )
    with new_archive(path) as archive:
        told = _write_rows(context, archive)
        files, file_bytes = _write_files(context, archive) if with_files else (0, 0)
        told |= {"files": files, "file_bytes": file_bytes}
        archive.close({**told, "created_at": context.now()})
    return {"path": str(path), "bytes": path.stat().st_size, **told}


def _write_rows(context: Context, archive: Writer) -> dict[str, Any]:
    tables: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory(prefix="backup-", dir=context.scratch) as folder,
        _one_moment(context, Path(folder)) as connection,
    ):
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None:
            raise UsageError("there is nothing in the database yet", code="backup.empty")
        for table in tables_of(connection):
            with (Path(folder) / "rows").open("w+b") as file:
                tables[f"{table.name}"] = dump_rows(connection, table, file)
                size = file.tell()
                file.seek(0)
                archive.add(f"{TABLES}/{table.name}.jsonl", file, size)
    return {"revision": revision, "tables": tables}


@contextmanager
def _one_moment(context: Context, folder: Path) -> Iterator[Connection]:
    """The database as it was at one moment, without keeping its writers waiting."""
    if context.database.is_postgresql:
        with context.database.read() as connection:
            yield connection
        return
    copy = folder / "copy.db"
    raw = context.database.engine.raw_connection()
    try:
        source = raw.driver_connection
        assert isinstance(source, sqlite3.Connection)
        target = sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            target.close()
    finally:
        raw.close()
    database = open_database(f"sqlite:///{copy}")
    try:
        with database.read() as connection:
            yield connection
    finally:
        database.close()


def _write_files(context: Context, archive: Writer) -> tuple[int, int]:
    assert context.storage.local is not None
    folders = [(f"{STORAGE}/{name}", context.storage.local / name) for name in _FOLDERS]
    folders.append((RUNS, context.settings.runs_folder))
    files = total = 0
    for name, folder in folders:
        for path in _files_of(folder):
            try:
                source = path.open("rb")
            except FileNotFoundError:
                # Deleted since the moment of the rows, as it may be.
                continue
            with source:
                size = os.fstat(source.fileno()).st_size
                archive.add(f"{name}/{path.relative_to(folder).as_posix()}", source, size)
            files, total = files + 1, total + size
    return files, total


def _files_of(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and SCRATCH_MARK not in path.name:
            yield path
