"""From an upload's parts to a file: checked before anything is changed, and changed in one transaction."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select, update

from tunesmith.errors import OutputError
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import UPLOAD_PARTS, UPLOADS
from tunesmith.service.errors import ApiError
from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import add_file, move_in, open_bytes, place_of
from tunesmith.service.uploads.schema import CompleteUpload, told_upload
from tunesmith.service.uploads.service import file_of, find_upload, remove_places, require_pending, take_parts

_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class _Whole:
    """The parts in one: where, and the hash that the row keeps."""

    place: str
    sha256: str


def complete_upload(context: Context, caller: Caller, upload_id: str, asked: CompleteUpload) -> dict[str, Any]:
    """Make a file of the parts. An upload that is complete already answers as it did.

    Raises:
        ApiError: 400: the parts are not those of this upload, or not what was announced.
    """
    with context.database.read() as connection:
        row = find_upload(connection, caller, upload_id)
        if row.status == "completed":
            return told_upload(row, file_of(connection, row), context.now())
        require_pending(row, context.now())
        found = select(UPLOAD_PARTS).where(UPLOAD_PARTS.c.upload_id == upload_id)
        parts = {part.id: part for part in connection.execute(found)}
    chosen = _chosen(parts, row, asked.part_ids)
    file_id = new_id("file-")
    whole = _joined(context, row, chosen, file_id, asked.md5)
    try:
        return _finish(context, caller, upload_id, file_id, whole)
    except ApiError:
        # Of any other failure nobody knows whether the row was written; bytes that no row names are swept up.
        context.storage.remove(whole.place)
        raise


def _chosen(parts: dict[str, Row[Any]], upload: Row[Any], part_ids: Sequence[str]) -> list[Row[Any]]:
    unknown = next((name for name in part_ids if name not in parts), None)
    if unknown is not None:
        raise ApiError(400, f"No such part of the upload: {unknown}", code="invalid_part", param="part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise ApiError(400, "A part is named twice", code="invalid_part", param="part_ids")
    chosen = [parts[name] for name in part_ids]
    total = sum(part.bytes for part in chosen)
    if total != upload.bytes:
        message = f"The parts have {total} bytes; {upload.bytes} were announced"
        raise ApiError(400, message, code="upload_size_mismatch", param="part_ids")
    return chosen


def _joined(context: Context, upload: Row[Any], parts: Sequence[Row[Any]], file_id: str, md5: str | None) -> _Whole:
    path = context.scratch / f"whole-{uuid.uuid4().hex}"
    place = place_of(upload.project_id, file_id, upload.filename)
    try:
        sha256, found = _write(context, path, parts)
        if md5 is not None and found != md5.lower():
            raise ApiError(400, f"The file's md5 is {found}", code="upload_md5_mismatch", param="md5")
        move_in(context, path, place)
    except OutputError as error:
        status = 507 if error.code == "output.disk_full" else 503
        raise ApiError(status, f"The file cannot be kept: {error.message}", code=error.code, retry=False) from error
    finally:
        path.unlink(missing_ok=True)
    return _Whole(place, sha256)


def _write(context: Context, path: Path, parts: Sequence[Row[Any]]) -> tuple[str, str]:
    """Write parts one behind the other; SHA-256 and MD5 of the whole."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with telling_output_errors(path), path.open("xb") as file:
        for part in parts:
            for piece in _pieces(context, part):
                sha256.update(piece)
                md5.update(piece)
                file.write(piece)
    return sha256.hexdigest(), md5.hexdigest()


def _pieces(context: Context, part: Row[Any]) -> Iterator[bytes]:
    try:
        source = open_bytes(context, part.place)
    except FileNotFoundError as error:
        # Another request has cancelled or completed the upload meanwhile; asked again, it says which.
        raise ApiError(409, "The upload is no longer pending", code="upload_not_pending", retry=True) from error
    with source:
        while piece := source.read(_PIECE_BYTES):
            yield piece


def _finish(context: Context, caller: Caller, upload_id: str, file_id: str, whole: _Whole) -> dict[str, Any]:
    now = context.now()
    with context.database.write() as connection:
        row = find_upload(connection, caller, upload_id, lock=True)
        # Where another request was faster, our own bytes are of no use.
        places = [whole.place]
        if row.status != "completed":
            require_pending(row, now)
            add_file(
                connection,
                id=file_id,
                project_id=row.project_id,
                purpose=row.purpose,
                filename=row.filename,
                bytes=row.bytes,
                sha256=whole.sha256,
                place=whole.place,
                created_at=now,
                expires_at=None if row.file_expires_seconds is None else now + row.file_expires_seconds,
            )
            places = take_parts(connection, upload_id)
            done = update(UPLOADS).where(UPLOADS.c.id == upload_id)
            connection.execute(done.values(status="completed", file_id=file_id))
            row = find_upload(connection, caller, upload_id)
        told = told_upload(row, file_of(connection, row), now)
    remove_places(context, places)
    return told
