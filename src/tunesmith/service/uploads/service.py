"""What can be done with uploads, but for making the whole out of the parts (:mod:`tunesmith.service.uploads.whole`)."""

from __future__ import annotations

import logging
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy import Connection, Row, delete, insert, select, update
from starlette.datastructures import Headers

from tunesmith.errors import TunesmithError
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES, UPLOAD_PARTS, UPLOADS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.file_shape import seconds_kept
from tunesmith.service.shared.files import move_in, place_of_part, require_room, room_left, storage_full
from tunesmith.service.shared.once import Keep, once
from tunesmith.service.shared.receiving import Received, Wanted, plain_name
from tunesmith.service.uploads.schema import CreateUpload, told_part, told_upload

_log = logging.getLogger(__name__)
_LIVES_SECONDS = 3600.0


def create_upload(context: Context, caller: Caller, headers: Headers, asked: CreateUpload) -> JSONResponse:
    """Begin an upload."""
    limits = context.settings.limits
    most = limits.batch_bytes if asked.purpose == "batch" else limits.upload_bytes
    if asked.bytes > most:
        raise ApiError(413, f"The file may have {most} bytes", code="file_too_large", param="bytes")

    def do(keep: Keep) -> dict[str, Any]:
        name, now = new_id("upload_"), context.now()
        row = {
            "id": name,
            "project_id": caller.project_id,
            "purpose": asked.purpose,
            "filename": plain_name(asked.filename),
            "mime_type": asked.mime_type,
            "bytes": asked.bytes,
            "status": "pending",
            "file_expires_seconds": seconds_kept(asked.purpose, asked.expires_after),
            "created_at": now,
            "expires_at": now + _LIVES_SECONDS,
        }
        with context.database.write() as connection:
            if asked.bytes > room_left(context, connection, caller.project_id):
                raise storage_full()
            connection.execute(insert(UPLOADS).values(**row))
            told = told_upload(find_upload(connection, caller, name), None, now)
            keep(connection, told)
        return told

    return once(context, caller, headers, "/uploads", asked.model_dump(), do)


def wanted_part(context: Context, caller: Caller, upload_id: str) -> Wanted:
    """What may come as a part.

    Raises:
        ApiError: The upload is not there, or takes none any more.
    """
    with context.database.read() as connection:
        require_pending(find_upload(connection, caller, upload_id), context.now())
        left = max(0, room_left(context, connection, caller.project_id))
    most = context.settings.limits.part_bytes
    if left < most:
        return Wanted("data", left, storage_full)
    return Wanted(
        "data", most, lambda: ApiError(413, f"A part may have {most} bytes", code="part_too_large", param="data")
    )


def create_part(context: Context, caller: Caller, headers: Headers, upload_id: str, received: Received) -> JSONResponse:
    """Keep a part; a repeated try keeps nothing and gets the first answer."""
    if received.fields:
        raise ApiError(400, "A part has the field `data` alone", code="invalid_form", param=next(iter(received.fields)))
    if not received.bytes:
        raise ApiError(400, "The part is empty", code="empty_file", param="data")
    path, body = f"/uploads/{upload_id}/parts", {"sha256": received.sha256}
    return once(context, caller, headers, path, body, lambda keep: _keep(context, caller, upload_id, received, keep))


def _keep(context: Context, caller: Caller, upload_id: str, received: Received, keep: Keep) -> dict[str, Any]:
    name = new_id("part_")
    place = place_of_part(caller.project_id, upload_id, name)
    move_in(context, received.path, place)
    try:
        with context.database.write() as connection:
            require_room(context, connection, caller.project_id, received.bytes)
            require_pending(find_upload(connection, caller, upload_id, lock=True), context.now())
            row = {"id": name, "upload_id": upload_id, "bytes": received.bytes, "place": place}
            connection.execute(insert(UPLOAD_PARTS).values(created_at=context.now(), **row))
            told = told_part(connection.execute(select(UPLOAD_PARTS).where(UPLOAD_PARTS.c.id == name)).one())
            keep(connection, told)
        return told
    except ApiError:
        # Of any other failure nobody knows whether the row was written; bytes that no row names are swept up.
        context.storage.remove(place)
        raise


def cancel_upload(context: Context, caller: Caller, upload_id: str) -> dict[str, Any]:
    """Cancel an upload; once more changes nothing.

    Raises:
        ApiError: 400: it is complete, or has expired.
    """
    with context.database.write() as connection:
        row = find_upload(connection, caller, upload_id, lock=True)
        if row.status != "cancelled":
            require_pending(row, context.now())
        places = take_parts(connection, upload_id)
        connection.execute(update(UPLOADS).where(UPLOADS.c.id == upload_id).values(status="cancelled"))
        told = told_upload(find_upload(connection, caller, upload_id), None, context.now())
    remove_places(context, places)
    return told


def find_upload(connection: Connection, caller: Caller, upload_id: str, *, lock: bool = False) -> Row[Any]:
    """An upload of the caller's project; locked, others that want to change it wait.

    Raises:
        ApiError: 404.
    """
    found = select(UPLOADS).where(UPLOADS.c.id == upload_id, UPLOADS.c.project_id == caller.project_id)
    row: Row[Any] | None = connection.execute(found.with_for_update() if lock else found).first()
    if row is None:
        raise not_found("Upload", upload_id, "upload_id")
    return row


def require_pending(row: Row[Any], now: float) -> None:
    """Refuse an upload that is over.

    Raises:
        ApiError: 400 ``upload_not_pending``.
    """
    status = "expired" if row.status == "pending" and row.expires_at <= now else row.status
    if status != "pending":
        raise ApiError(400, f"Upload {row.id} is {status}", code="upload_not_pending", param="upload_id")


def file_of(connection: Connection, row: Row[Any]) -> Row[Any] | None:
    """The file that an upload became; None before, and once it is deleted."""
    if row.file_id is None:
        return None
    found = select(FILES).where(FILES.c.id == row.file_id, FILES.c.deleted_at.is_(None))
    file: Row[Any] | None = connection.execute(found).first()
    return file


def take_parts(connection: Connection, upload_id: str) -> list[str]:
    """Remove the rows of an upload's parts; where their bytes are, which go after the transaction."""
    of_upload = UPLOAD_PARTS.c.upload_id == upload_id
    places = list(connection.execute(select(UPLOAD_PARTS.c.place).where(of_upload)).scalars())
    connection.execute(delete(UPLOAD_PARTS).where(of_upload))
    return places


def remove_places(context: Context, places: list[str]) -> None:
    """Remove bytes that no row names any more; what a killed process leaves is swept up a day later."""
    for place in places:
        try:
            context.storage.remove(place)
        except TunesmithError as error:
            _log.warning("bytes stay in the storage for now: %s", error.message)
