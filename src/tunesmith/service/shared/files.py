"""Files of a project: rows in the database, bytes in the storage.

Where bytes lie is made from ids alone, never from a name that a request gave.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id

_PIECE_BYTES = 2**20


def find_file(
    connection: Connection, project_id: str, file_id: str, *, purpose: str | None = None, param: str = "file_id"
) -> Row[Any]:
    """A file of a project.

    Raises:
        ApiError: 404: there is none, or it is another project's; 400: it is for something else.
    """
    found = select(FILES).where(FILES.c.id == file_id, FILES.c.project_id == project_id, FILES.c.deleted_at.is_(None))
    row: Row[Any] | None = connection.execute(found).first()
    if row is None:
        raise not_found("File object", file_id, param)
    if purpose is not None and row.purpose != purpose:
        raise ApiError(
            400,
            f"File {file_id} has the purpose {row.purpose}; {purpose} is needed here",
            code="invalid_file_purpose",
            param=param,
        )
    return row


@contextmanager
def local_copy(context: Context, place: str, suffix: str = ".jsonl") -> Iterator[Path]:
    """Bytes of the storage as a file of this machine, for the time of the block; of a local storage its own file."""
    if context.storage.local is not None:
        yield context.storage.local / place
        return
    with tempfile.TemporaryDirectory(prefix="file-", dir=context.scratch) as folder:
        path = Path(folder) / f"file{suffix}"
        context.storage.get(place, path)
        yield path


def keep_file(
    context: Context,
    project_id: str,
    purpose: str,
    filename: str,
    source: Path,
    *,
    expires_at: float | None = None,
    file_id: str | None = None,
) -> str:
    """Keep a file that the service has made itself; its id.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    name = file_id or new_id("file-")
    place = place_of(project_id, name)
    context.storage.put(source, place)
    row = {
        "id": name,
        "project_id": project_id,
        "purpose": purpose,
        "filename": filename,
        "bytes": source.stat().st_size,
        "sha256": hash_of_file(source),
        "place": place,
        "status": "processed",
        "created_at": context.now(),
        "expires_at": expires_at,
    }
    with context.database.write() as connection:
        connection.execute(insert(FILES).values(**row))
    return name


def place_of(project_id: str, file_id: str) -> str:
    """Where a file's bytes lie in the storage."""
    return f"projects/{project_id}/files/{file_id}"


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
