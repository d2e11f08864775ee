"""Files of a project: rows in the database, bytes in the storage.

Where bytes lie is made from ids alone, and from endings of a closed list; never from a name that a request gave.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, Row, func, insert, select

from tunesmith.formats.kinds import extension_kind
from tunesmith.runs.atomic import sync_folder, telling_output_errors
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.files import FILES, UPLOAD_PARTS, UPLOADS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.storage.store import Store

FILE_FOLDER = "files"
UPLOAD_FOLDER = "uploads"
_PIECE_BYTES = 2**20


def find_file(
    connection: Connection,
    project_id: str,
    file_id: str,
    *,
    purpose: str | None = None,
    param: str = "file_id",
    even_deleted: bool = False,
) -> Row[Any]:
    """A file of a project.

    Args:
        connection: To the database.
        project_id: Whose it must be.
        file_id: Its name.
        purpose: What it must be for; None takes every purpose.
        param: The parameter that named it.
        even_deleted: Also one that was deleted, whose bytes stay while a job needs them.

    Raises:
        ApiError: 404: there is none, or it is another project's; 400: it is for something else.
    """
    found = select(FILES).where(FILES.c.id == file_id, FILES.c.project_id == project_id)
    if not even_deleted:
        found = found.where(FILES.c.deleted_at.is_(None))
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
def local_copy(context: Context, place: str, suffix: str = "") -> Iterator[Path]:
    """Bytes of the storage as a file of this machine, for the time of the block; of a local storage its own file.

    Args:
        context: The service.
        place: In the storage.
        suffix: How a copy is to end, where the place itself has no ending.
    """
    if context.storage.local is not None:
        yield context.storage.local / place
        return
    with tempfile.TemporaryDirectory(prefix="file-", dir=context.scratch) as folder:
        ending = "".join(Path(place).suffixes) or suffix
        path = Path(folder) / f"file{ending}"
        context.storage.get(place, path)
        yield path


def bring(context: Context, place: str, target: Path) -> None:
    """Bytes of the storage under a name of the caller's; of a local storage without a copy where both lie on one disk.

    Args:
        context: The service.
        place: In the storage.
        target: Where nothing lies yet. It is read, and never changed.

    Raises:
        FileNotFoundError: There is nothing in that place.
    """
    local = context.storage.local
    if local is None:
        context.storage.get(place, target)
        return
    try:
        # A file of the service is never changed, only removed; this name of it stays.
        os.link(local / place, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(local / place, target)


def open_bytes(context: Context, place: str) -> BinaryIO:
    """Bytes of the storage, open for reading; a copy of them is gone as soon as it is closed, whatever happens.

    Raises:
        FileNotFoundError: There is nothing.
    """
    with local_copy(context, place) as path:
        return path.open("rb")


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
    place = place_of(project_id, name, filename)
    context.storage.put(source, place)
    with context.database.write() as connection:
        add_file(
            connection,
            id=name,
            project_id=project_id,
            purpose=purpose,
            filename=filename,
            bytes=source.stat().st_size,
            sha256=hash_of_file(source),
            place=place,
            created_at=context.now(),
            expires_at=expires_at,
        )
    return name


def remove_below(store: Store, folder: str) -> None:
    """Remove every file below a folder of a storage.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    for found in list(store.walk(folder)):
        store.remove(found.path)


def add_file(connection: Connection, **columns: Any) -> None:
    """Write the row of a file whose bytes are in the storage; it can be used at once."""
    connection.execute(insert(FILES).values(status="processed", **columns))


def move_in(context: Context, source: Path, place: str) -> None:
    """Move a file of this machine into the storage; without a copy where both lie on one disk.

    Raises:
        OutputError, NetworkError: The storage cannot be written; the source is as it was.
    """
    local = context.storage.local
    if local is not None and _renamed(source, local / place):
        return
    context.storage.put(source, place)
    source.unlink()


def _renamed(source: Path, target: Path) -> bool:
    with telling_output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_dev != target.parent.stat().st_dev:
            return False
        with source.open("rb") as file:
            os.fsync(file.fileno())
        # Copies of it may be hard links.
        source.chmod(0o444)
        source.replace(target)
        sync_folder(target.parent)
    return True


def place_of(project_id: str, file_id: str, filename: str = "") -> str:
    """Where a file's bytes lie in the storage; readers of rows tell some kinds of file by the ending."""
    return f"projects/{project_id}/{FILE_FOLDER}/{file_id}{ending_of(filename)}"


def place_of_part(project_id: str, upload_id: str, part_id: str) -> str:
    """Where the bytes of an upload's part lie in the storage."""
    return f"projects/{project_id}/{UPLOAD_FOLDER}/{upload_id}/{part_id}"


def ending_of(filename: str) -> str:
    """The ending of a name, where it is one of a training file; else nothing."""
    if extension_kind(filename) is None:
        return ""
    lower = filename.lower()
    packed = ".gz" if lower.endswith(".gz") else ""
    return Path(lower.removesuffix(".gz")).suffix + packed


def room_left(context: Context, connection: Connection, project_id: str) -> int:
    """How many bytes a project may add to its files and uploads; below zero where its limit was lowered."""
    own = select(PROJECTS.c.storage_bytes).where(PROJECTS.c.id == project_id)
    files = select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(
        FILES.c.project_id == project_id, FILES.c.deleted_at.is_(None)
    )
    parts = (
        select(func.coalesce(func.sum(UPLOAD_PARTS.c.bytes), 0))
        .join(UPLOADS, UPLOADS.c.id == UPLOAD_PARTS.c.upload_id)
        .where(UPLOADS.c.project_id == project_id)
    )
    most = connection.execute(own).scalar_one_or_none()
    used = int(connection.execute(files).scalar_one()) + int(connection.execute(parts).scalar_one())
    limit = context.settings.limits.project_bytes
    return (limit if most is None else min(int(most), limit)) - used


def require_room(context: Context, connection: Connection, project_id: str, coming: int) -> None:
    """Refuse what would not fit into a project's storage; others of the project wait meanwhile.

    Args:
        context: The service.
        connection: Of the transaction that adds the bytes.
        project_id: Whose storage.
        coming: Bytes to add.

    Raises:
        ApiError: 413 ``project_storage_full``.
    """
    connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.id == project_id).with_for_update())
    if coming > room_left(context, connection, project_id):
        raise storage_full()


def storage_full() -> ApiError:
    """What is told where a project has no room for more bytes."""
    return ApiError(
        413,
        "The project's storage is full; delete files that are no longer needed",
        code="project_storage_full",
        param="file",
    )


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
