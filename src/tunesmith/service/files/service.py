"""What can be done with files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi.responses import JSONResponse
from sqlalchemy import Row, select, update
from starlette.datastructures import Headers

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.files.schema import CreateFile
from tunesmith.service.ids import new_id
from tunesmith.service.lists import Order, page
from tunesmith.service.shared.file_shape import seconds_kept, told_file
from tunesmith.service.shared.files import (
    add_file,
    find_file,
    move_in,
    open_bytes,
    place_of,
    require_room,
    room_left,
    storage_full,
)
from tunesmith.service.shared.once import Keep, once
from tunesmith.service.shared.receiving import Received, Wanted
from tunesmith.service.shared.telling import note_action

_PIECE_BYTES = 256 * 2**10


def wanted_file(context: Context, caller: Caller) -> Wanted:
    """What may come: as much as a file may have and the project has room for."""
    with context.database.read() as connection:
        left = max(0, room_left(context, connection, caller.project_id))
    most = context.settings.limits.file_bytes
    if left < most:
        return Wanted("file", left, storage_full)
    return Wanted("file", most, lambda: too_large(most))


def too_large(most: int) -> ApiError:
    """What is told of a file that is too large."""
    return ApiError(
        413, f"The file is larger than {most} bytes; send it in parts to /uploads", code="file_too_large", param="file"
    )


def create_file(
    context: Context, caller: Caller, headers: Headers, received: Received, asked: CreateFile
) -> JSONResponse:
    """Keep what was received; a repeated try keeps nothing and gets the first answer."""
    if not received.bytes:
        raise ApiError(400, "The file is empty", code="empty_file", param="file")
    most = context.settings.limits.batch_bytes
    if asked.purpose == "batch" and received.bytes > most:
        raise ApiError(413, f"A batch's input may have {most} bytes", code="file_too_large", param="file")
    body = {**asked.model_dump(), "filename": received.filename, "sha256": received.sha256}
    return once(context, caller, headers, "/files", body, lambda keep: _keep(context, caller, received, asked, keep))


def _keep(context: Context, caller: Caller, received: Received, asked: CreateFile, keep: Keep) -> dict[str, Any]:
    name, now = new_id("file-"), context.now()
    place = place_of(caller.project_id, name, received.filename)
    seconds = seconds_kept(asked.purpose, asked.expires_after)
    move_in(context, received.path, place)
    try:
        with context.database.write() as connection:
            require_room(context, connection, caller.project_id, received.bytes)
            add_file(
                connection,
                id=name,
                project_id=caller.project_id,
                purpose=asked.purpose,
                filename=received.filename,
                bytes=received.bytes,
                sha256=received.sha256,
                place=place,
                created_at=now,
                expires_at=None if seconds is None else now + seconds,
            )
            told = told_file(find_file(connection, caller.project_id, name))
            keep(connection, told)
        return told
    except ApiError:
        # Of any other failure nobody knows whether the row was written; bytes that no row names are swept up.
        context.storage.remove(place)
        raise


@dataclass(frozen=True)
class Listing:
    """Which files are listed: of a purpose, from behind a name, so many, in an order of time."""

    purpose: str | None
    after: str | None
    limit: int
    order: Order


def list_files(context: Context, caller: Caller, asked: Listing) -> dict[str, Any]:
    """A page of the project's files."""
    found = select(FILES).where(FILES.c.project_id == caller.project_id, FILES.c.deleted_at.is_(None))
    if asked.purpose is not None:
        found = found.where(FILES.c.purpose == asked.purpose)
    with context.database.read() as connection:
        return page(connection, found, FILES.c.id, told_file, after=asked.after, limit=asked.limit, order=asked.order)


def retrieve_file(context: Context, caller: Caller, file_id: str) -> Row[Any]:
    """A file of the project."""
    with context.database.read() as connection:
        return find_file(connection, caller.project_id, file_id)


def delete_file(context: Context, caller: Caller, file_id: str) -> None:
    """Take a file out of the project; its bytes go once no job needs them (:mod:`tunesmith.service.files.chores`)."""
    with context.database.write() as connection:
        find_file(connection, caller.project_id, file_id)
        deleted = update(FILES).where(FILES.c.id == file_id, FILES.c.deleted_at.is_(None))
        connection.execute(deleted.values(deleted_at=context.now()))
        note_action(context, connection, caller, "file.delete", target=file_id)


def content_of(context: Context, row: Row[Any]) -> Iterator[bytes]:
    """A file's bytes, piece by piece. It is open before the first piece is asked for.

    Raises:
        ApiError: 404: the storage has lost them.
    """
    try:
        return _pieces(open_bytes(context, row.place))
    except FileNotFoundError as error:
        raise not_found("File content", row.id, "file_id") from error


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
